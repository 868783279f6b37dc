import io
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.curriculum import (
    Mixture,
    assemble,
    draw_basic,
    draw_easy,
    draw_hard,
    hard_count,
    quotas,
    reach_of,
    size_round,
)
from tapir_core.randomness import derive_rng
from tapir_core.stages import MIX
from tests.builders import make_examples, make_expansion, make_refinement, make_seeds, numbered, shuffled

NAMES = ["Law", "Math", "Music"]
SHARES = {"Law": 0.2, "Math": 0.5, "Music": 0.3}
COUNTS = st.lists(st.sampled_from(NAMES), max_size=25)


def as_bytes(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()


def mix(
    seeds: list[str],
    new: list[str],
    easy: list[str],
    *,
    examples: int = 20,
    alpha: float = 0.5,
    seed: int = 1,
    arrival: int | None = None,
) -> Mixture:
    """The three steps of a round, on rows that come in any order."""
    hard_rows, easy_rows = make_seeds(numbered(seeds, "s")), make_seeds(numbered(easy, "e"), mfd=1.0)
    expansion = make_expansion(numbered(new, "x"))
    examples_of_pool = make_examples(numbered(seeds, "s") | numbered(easy, "e"))
    pool = pl.concat([examples_of_pool, expansion.select(examples_of_pool.columns)])
    refinement = make_refinement({each: f"refined {each}" for each in hard_rows["instruction_id"]})
    if arrival is not None:
        tables = (shuffled(each, arrival) for each in (hard_rows, easy_rows, expansion, pool, refinement))
        hard_rows, easy_rows, expansion, pool, refinement = tables
    count = hard_count(examples, alpha)
    hard = draw_hard(hard_rows, expansion, count, SHARES, derive_rng(seed, "hard"))
    soft = draw_easy(easy_rows, examples - count, SHARES, derive_rng(seed, "easy"))
    return assemble([hard, soft], pool, refinement, examples, derive_rng(seed, "mix"))


@given(COUNTS, COUNTS, COUNTS, st.integers(1, 40), st.sampled_from([0, 0.3, 0.5, 1]), st.integers(0, 5))
def test_the_laws_of_a_mixture(
    seeds: list[str], new: list[str], easy: list[str], examples: int, alpha: float, seed: int
) -> None:
    mixture = mix(seeds, new, easy, examples=examples, alpha=alpha, seed=seed)
    rows, hard = mixture.rows, mixture.rows.filter(pl.col("origin") != "easy")
    wanted, supply, got = quotas(hard_count(examples, alpha), SHARES), Counter(seeds + new), Counter(hard["task_type"])
    assert rows["instruction_id"].n_unique() == rows.height
    assert rows["example_id"].n_unique() == rows.height
    assert all(got[name] == min(wanted[name], supply[name]) for name in NAMES)
    assert all(mixture.shortfall.get(name, 0) == wanted[name] - got[name] for name in NAMES)
    assert rows.height - hard.height == min(examples - sum(wanted.values()), len(easy))
    assert mixture.missing == examples - rows.height
    assert rows.schema == MIX.columns
    again = mix(seeds, new, easy, examples=examples, alpha=alpha, seed=seed, arrival=seed + 7)
    assert as_bytes(again.rows) == as_bytes(rows)


def test_shares_are_met_within_one_example_where_supply_allows() -> None:
    mixture = mix(NAMES * 30, NAMES * 30, NAMES * 60, examples=101, alpha=0.7)
    for part in (mixture.rows.filter(pl.col("origin") != "easy"), mixture.rows.filter(pl.col("origin") == "easy")):
        counts = Counter(part["task_type"])
        assert all(abs(counts[name] - part.height * SHARES[name]) < 1 for name in NAMES)
    assert mixture.missing == 0
    assert mixture.shortfall == {}


def test_the_hard_part_is_never_filled_from_other_task_types() -> None:
    mixture = mix(["Math"] * 50, [], ["Math"] * 50, examples=20)
    assert Counter(mixture.rows["origin"]) == {"seed": 5, "easy": 10}
    assert mixture.shortfall == {"Law": 2, "Music": 3}
    assert mixture.missing == 5


def test_the_easy_part_is_filled_from_the_task_types_that_are_there() -> None:
    easy = mix([], [], ["Math"] * 3 + ["Law"] * 30, examples=20, alpha=0).rows
    assert Counter(easy["task_type"]) == {"Law": 17, "Math": 3}


@given(COUNTS, COUNTS, st.integers(1, 40), st.integers(0, 25), st.integers(0, 5))
def test_seeds_are_drawn_before_new_instructions_and_those_of_earlier_rounds_after_other_seeds(
    seeds: list[str], new: list[str], count: int, known: int, seed: int
) -> None:
    rows, expansion = make_seeds(numbered(seeds, "s")), make_expansion(numbered(new, "x"))
    used = set(rows["instruction_id"].to_list()[:known])
    drawn = draw_hard(rows, expansion, count, SHARES, derive_rng(seed), used).rows
    for name, wanted in quotas(count, SHARES).items():
        there = rows.filter(task_type=name)
        of_type = drawn.filter(task_type=name)
        taken = set(of_type.filter(origin="seed")["instruction_id"])
        assert len(taken) == min(wanted, there.height)
        assert len(taken - used) == min(wanted, len(set(there["instruction_id"]) - used))
        assert of_type.filter(origin="expansion").height == min(max(0, wanted - there.height), new.count(name))


@given(st.integers(0, 70_000), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_alpha_never_makes_the_hard_part_smaller(examples: int, one: float, other: float) -> None:
    low, high = sorted([one, other])
    assert 0 <= hard_count(examples, low) <= hard_count(examples, high) <= examples
    assert hard_count(examples, 1) == examples


@given(st.integers(0, 70_000), st.floats(0, 1), st.integers(0, 70_000))
def test_a_round_is_as_large_as_its_easy_rows_allow_at_its_alpha(examples: int, alpha: float, easy: int) -> None:
    size = size_round(examples, alpha, easy)
    assert abs(size.hard - alpha * size.examples) <= 0.5 + 1e-9
    assert size.easy <= easy
    assert size.examples <= size.asked == examples
    larger = size.examples + 1
    assert size.examples == examples or larger - hard_count(larger, alpha) > easy


def test_easy_rows_of_task_types_without_a_share_do_not_count() -> None:
    assert reach_of(make_seeds(numbered(["Math", "Math", "Art"])), SHARES) == 2


def test_an_accepted_refined_answer_replaces_the_plain_one() -> None:
    hard = draw_hard(make_seeds({"a": "Math", "b": "Math"}), make_expansion({}), 2, {"Math": 1.0}, derive_rng(1))
    refinement = pl.concat([make_refinement({"a": "better"}), make_refinement({"b": "worse"}, accepted=False)])
    pool = make_examples({"a": "Math", "b": "Math"}, system="Be brief.")
    rows = assemble([hard], pool, refinement, 2, derive_rng(1)).rows.sort("instruction_id")
    assert rows["refined"].to_list() == [True, False]
    assert rows["mfd"].to_list() == [3.0, 3.0]
    assert rows["messages"].to_list() == [
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"instruction {each}"},
            {"role": "assistant", "content": answer},
        ]
        for each, answer in [("a", "better"), ("b", "plain b")]
    ]


def test_without_system_text_there_is_no_system_message() -> None:
    messages = mix(["Math"], [], [], examples=1, alpha=1).rows["messages"].to_list()
    assert [each["role"] for each in messages[0]] == ["user", "assistant"]


@pytest.mark.parametrize("count", [10, 30, 99])
def test_s0_is_drawn_by_natural_shares(count: int) -> None:
    pool = make_examples(numbered(["Math"] * 20 + ["Law"] * 10))
    draw = draw_basic(pool, count, derive_rng(1))
    counts = Counter(draw.rows["task_type"])
    drawn = min(count, 30)
    assert draw.rows.height == drawn
    assert abs(counts["Math"] - drawn * 2 / 3) < 1
    mixture = assemble([draw], pool, make_refinement({}), count, derive_rng(2))
    assert set(mixture.rows["origin"]) == {"pool"}
    assert mixture.missing == count - drawn


def test_an_empty_pool_gives_an_empty_mixture() -> None:
    assert draw_basic(make_examples({}), 5, derive_rng(1)).rows.height == 0
    mixture = mix([], [], [])
    assert mixture.rows.schema == MIX.columns
    assert mixture.missing == 20


def test_an_instruction_in_two_draws_is_our_own_bug() -> None:
    draw = draw_easy(make_seeds({"a": "Math"}), 1, {"Math": 1.0}, derive_rng(1))
    with pytest.raises(AssertionError, match="drawn twice"):
        assemble([draw, draw], make_examples({"a": "Math"}), make_refinement({}), 2, derive_rng(1))
    with pytest.raises(AssertionError, match="no usable answer"):
        assemble([draw], make_examples({}), make_refinement({}), 1, derive_rng(1))


def test_another_seed_gives_another_order() -> None:
    orders = {tuple(mix(NAMES * 10, [], NAMES * 10, seed=seed).rows["instruction_id"]) for seed in range(4)}
    assert len(orders) == 4
