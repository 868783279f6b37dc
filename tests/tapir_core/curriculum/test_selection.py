import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.config import HardShare, PassRate, RandomShare, Threshold
from tapir_core.curriculum import select_seeds, trusted, weigh_by_pass_rate
from tapir_core.randomness import derive_rng
from tapir_core.stages import SELECT
from tests.builders import make_difficulty, make_examples, numbered, shuffled

MFD = st.lists(st.integers(-18, 18).map(lambda half: half / 2), max_size=40).map(
    lambda values: {f"i{number:02d}": value for number, value in enumerate(values)}
)


def without_mfd(ids: dict[str, str]) -> pl.DataFrame:
    return make_examples(ids).with_columns(mfd=pl.lit(None, pl.Float64))


def test_the_threshold_keeps_what_is_strictly_above() -> None:
    parts = select_seeds(Threshold(threshold=2.0), make_difficulty({"a": 2.0, "b": 2.5, "c": 0.0}), derive_rng(1))
    assert parts.seeds["instruction_id"].to_list() == ["b"]
    assert parts.easy["instruction_id"].to_list() == ["a", "c"]
    assert parts.seeds.schema == parts.easy.schema == SELECT.columns
    assert parts.delta == 2.0


def test_what_the_student_answers_better_is_neither_seed_nor_easy() -> None:
    difficulty = make_difficulty({"a": 3.0, "b": 0.0, "c": -0.5, "d": -3.0})
    parts = select_seeds(Threshold(threshold=2.0), difficulty, derive_rng(1))
    assert parts.seeds["instruction_id"].to_list() == ["a"]
    assert parts.easy["instruction_id"].to_list() == ["b"]
    assert parts.counts["easy"] == 1


@pytest.mark.parametrize(("floor", "kept"), [(0, "abcd"), (5, "bcd"), (5.5, "cd"), (10, "d")])
def test_a_teachers_answer_that_the_judge_scored_low_is_not_trusted(floor: float, kept: str) -> None:
    difficulty = make_difficulty(dict.fromkeys("abcd", 3.0))
    difficulty = difficulty.with_columns(teacher_score=pl.Series([4.5, 5.0, 7.0, 10.0]))
    assert trusted(difficulty, floor)["instruction_id"].to_list() == [*kept]


def test_the_share_reports_the_mfd_of_its_last_seed() -> None:
    difficulty = make_difficulty({"a": 1.0, "b": 5.0, "c": 3.0, "d": 0.5, "e": -1.0})
    parts = select_seeds(HardShare(share=0.4), difficulty, derive_rng(1))
    assert parts.seeds["instruction_id"].to_list() == ["b", "c"]
    assert parts.delta == 3.0


def test_a_tie_at_the_top_still_gives_seeds() -> None:
    difficulty = make_difficulty({f"i{number}": 9.0 for number in range(10)})
    parts = select_seeds(HardShare(share=0.3), difficulty, derive_rng(1))
    assert (parts.seeds.height, parts.easy.height, parts.delta) == (3, 7, 9.0)
    picks = {
        tuple(select_seeds(HardShare(share=0.3), difficulty, derive_rng(s)).seeds["instruction_id"]) for s in range(9)
    }
    assert len(picks) > 1


def test_only_an_answer_worse_than_the_teachers_can_be_a_seed() -> None:
    parts = select_seeds(HardShare(share=0.9), make_difficulty({"a": 0.0, "b": -1.0}), derive_rng(1))
    assert parts.seeds.height == 0
    assert parts.delta == 0.0


@pytest.mark.parametrize(("share", "scored", "seeds"), [(0.1, 30, 3), (0.7, 10, 7), (0.3, 1, 1), (0.3, 11, 4)])
def test_the_share_rounds_up_and_no_rounding_error_adds_one(share: float, scored: int, seeds: int) -> None:
    difficulty = make_difficulty({f"i{number:02d}": number + 1.0 for number in range(scored)})
    assert select_seeds(HardShare(share=share), difficulty, derive_rng(1)).seeds.height == seeds


@given(MFD, st.floats(0.01, 0.99), st.integers(0, 9))
def test_seeds_are_the_hardest_and_nothing_is_lost(mfd: dict[str, float], share: float, seed: int) -> None:
    difficulty = make_difficulty(mfd)
    parts = select_seeds(HardShare(share=share), difficulty, derive_rng(seed))
    easy = {identity for identity, gap in mfd.items() if gap >= 0} - {*parts.seeds["instruction_id"]}
    assert set(parts.easy["instruction_id"]) == easy
    assert parts.seeds.height == min(math.ceil(round(share * len(mfd), 9)), sum(value > 0 for value in mfd.values()))
    if parts.seeds.height and parts.easy.height:
        assert min(parts.seeds["mfd"]) >= max([value for value in parts.easy["mfd"] if value > 0], default=0)
    again = select_seeds(HardShare(share=share), shuffled(difficulty, seed), derive_rng(seed))
    assert again.seeds.equals(parts.seeds)
    assert again.easy.equals(parts.easy)


@given(MFD, st.floats(-9, 9), st.floats(-9, 9))
def test_a_higher_threshold_never_adds_a_seed(mfd: dict[str, float], one: float, other: float) -> None:
    low, high = (
        set(select_seeds(Threshold(threshold=each), make_difficulty(mfd), derive_rng(1)).seeds["instruction_id"])
        for each in sorted([one, other])
    )
    assert high <= low


@given(st.integers(0, 60), st.floats(0, 0.99), st.integers(0, 60), st.integers(0, 9))
def test_random_seeds_are_a_share_of_the_pool_without_an_mfd_and_new_ones_come_first(
    rows: int, share: float, known: int, seed: int
) -> None:
    pool = without_mfd(numbered(["Math", "Law"] * rows))
    used = set(pool["instruction_id"].to_list()[:known])
    parts = select_seeds(RandomShare(share=share), pool, derive_rng(seed), used)
    seeds, easy = set(parts.seeds["instruction_id"]), set(parts.easy["instruction_id"])
    assert len(seeds) == math.ceil(round(share * 2 * rows, 9))
    assert seeds | easy == set(pool["instruction_id"])
    assert not seeds & easy
    assert parts.delta is None
    assert parts.seeds.schema == parts.easy.schema == SELECT.columns
    assert parts.seeds["mfd"].null_count() == parts.seeds.height
    assert not seeds & used or easy <= used, "an old one is drawn when no new one is left"
    assert select_seeds(RandomShare(share=share), shuffled(pool, seed), derive_rng(seed), used).seeds.equals(
        parts.seeds
    )


def test_another_generator_draws_other_random_seeds() -> None:
    pool = without_mfd(numbered(["Math"] * 40))
    drawn = (select_seeds(RandomShare(share=0.3), pool, derive_rng(seed)).seeds for seed in range(5))
    assert len({tuple(seeds["instruction_id"]) for seeds in drawn}) == 5


def attempts(**marks: list[bool | None]) -> pl.DataFrame:
    rows = [(name, mark) for name, of in marks.items() for mark in of]
    return pl.DataFrame(rows, schema={"instruction_id": pl.String, "correct": pl.Boolean}, orient="row")


def test_pass_rates_weigh_what_is_half_known_to_imitate_and_what_fails_to_learn_from_its_own() -> None:
    pool = without_mfd(dict.fromkeys("abcd", "Math"))
    tried = attempts(a=[True] * 4, b=[True, True, False, False], c=[False] * 4, d=[None] * 4, other=[True])
    imitating, failing = (weigh_by_pass_rate(pool, tried, by_failure=each) for each in (False, True))
    assert dict(imitating.select("instruction_id", "weight").iter_rows()) == pytest.approx(
        {"a": 5 / 36, "b": 1 / 4, "c": 5 / 36}
    ), "p(1 − p); what has no mark is no candidate"
    assert dict(failing.select("instruction_id", "weight").iter_rows()) == pytest.approx(
        {"a": 1 / 6, "b": 1 / 2, "c": 5 / 6}
    )


def test_seeds_are_drawn_in_proportion_to_their_weight() -> None:
    ids = {f"i{number:03d}": "Math" for number in range(300)}
    pool = without_mfd(ids)
    tried = attempts(**{name: [place % 3 == 0] * 8 for place, name in enumerate(ids)})
    weighed = weigh_by_pass_rate(pool, tried, by_failure=True)
    rule = PassRate(samples=8, share=0.1)
    drawn = [select_seeds(rule, weighed, derive_rng(each)) for each in range(40)]
    assert {each.seeds.height for each in drawn} == {30}
    assert all(each.easy.height == 270 and each.delta is None for each in drawn)
    passed = {name for place, name in enumerate(ids) if place % 3 == 0}
    share = sum(name in passed for each in drawn for name in each.seeds["instruction_id"]) / (40 * 30)
    # A third of them at a weight of 1/10, two thirds at 9/10.
    assert 0.02 < share < 0.1
    shuffled_rows = select_seeds(rule, weighed.sample(fraction=1, shuffle=True, seed=3), derive_rng(1))
    assert shuffled_rows.seeds.equals(select_seeds(rule, weighed, derive_rng(1)).seeds)
