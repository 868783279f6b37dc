from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.curriculum import fill_quotas, quotas, share_table, shares_of, supply_of, target_shares
from tapir_core.curriculum.mixture import draw_balanced
from tapir_core.randomness import derive_rng
from tapir_core.task_types import TARGET_SHARES, TASK_TYPES, in_order
from tests.builders import make_labels, make_seeds, numbered, shuffled

NAMES = ["Law", "Math", "Music", "Physics", "Writing"]
SHARES = (
    st.lists(st.floats(0, 1), min_size=5, max_size=5)
    .filter(lambda s: sum(s) > 1e-3)
    .map(lambda s: dict(zip(NAMES, s, strict=True)))
)
SUPPLY = st.lists(st.integers(0, 30), min_size=5, max_size=5).map(lambda s: dict(zip(NAMES, s, strict=True)))


@given(st.integers(0, 100_000), SHARES)
def test_quotas_sum_exactly_and_stay_within_one_of_their_share(total: int, shares: dict[str, float]) -> None:
    counts = quotas(total, shares)
    whole = sum(shares.values())
    assert sum(counts.values()) == total
    assert all(abs(counts[name] - total * shares[name] / whole) < 1 + 1e-6 for name in shares)
    assert quotas(total, dict(reversed(shares.items()))) == counts


@pytest.mark.parametrize("total", [0, 1, 7, 100, 512, 21_000, 70_000])
def test_the_recipe_of_the_paper_is_met_within_one_example(total: int) -> None:
    counts = quotas(total, TARGET_SHARES)
    assert sum(counts.values()) == total
    assert all(abs(counts[name] - total * share) < 1 + 1e-6 for name, share in TARGET_SHARES.items())


def test_shares_without_weight_are_refused() -> None:
    with pytest.raises(ValueError, match="no share is positive"):
        quotas(3, {"Math": 0.0})


@given(st.integers(0, 120), SHARES, SUPPLY)
def test_filled_quotas_use_all_that_is_there_and_no_more(
    total: int, shares: dict[str, float], supply: dict[str, int]
) -> None:
    counts = fill_quotas(total, shares, supply)
    reachable = sum(supply[name] for name in NAMES if shares[name] > 0)
    assert sum(counts.values()) == min(total, reachable)
    assert all(counts[name] <= supply[name] for name in NAMES)
    plain = quotas(total, shares)
    if all(plain[name] <= supply[name] for name in NAMES):
        assert counts == plain
    if total <= reachable:
        assert all(counts[name] >= min(plain[name], supply[name]) for name in NAMES)


@given(SUPPLY, SUPPLY, st.integers(0, 99))
def test_a_draw_repeats_nothing_and_says_what_lacks(supply: dict[str, int], wanted: dict[str, int], seed: int) -> None:
    candidates = make_seeds(numbered([name for name in NAMES for _ in range(supply[name])]))
    draw = draw_balanced(candidates, wanted, derive_rng(seed))
    got = Counter(draw.rows["task_type"])
    assert draw.rows["instruction_id"].n_unique() == draw.rows.height
    assert all(got[name] == min(wanted[name], supply[name]) for name in NAMES)
    assert all(draw.shortfall.get(name, 0) == wanted[name] - got[name] for name in NAMES)
    again = draw_balanced(shuffled(candidates, seed), dict(reversed(wanted.items())), derive_rng(seed))
    assert again.rows.equals(draw.rows)


@given(SUPPLY, SUPPLY, st.integers(0, 150), st.integers(0, 99))
def test_what_was_used_is_drawn_when_nothing_else_of_its_task_type_is_left(
    supply: dict[str, int], wanted: dict[str, int], known: int, seed: int
) -> None:
    candidates = make_seeds(numbered([name for name in NAMES for _ in range(supply[name])]))
    used = set(derive_rng(seed).sample(candidates["instruction_id"].to_list(), min(known, candidates.height)))
    draw = draw_balanced(candidates, wanted, derive_rng(seed), [used])
    assert Counter(draw.rows["task_type"]) == Counter(
        draw_balanced(candidates, wanted, derive_rng(seed)).rows["task_type"]
    )
    drawn = set(draw.rows["instruction_id"])
    for name in NAMES:
        of_type = set(candidates.filter(task_type=name)["instruction_id"])
        assert not drawn & of_type & used or of_type - used <= drawn


@given(SUPPLY, SUPPLY, SUPPLY, st.integers(0, 150), st.integers(0, 99))
def test_a_draw_of_more_holds_the_draw_of_less(
    supply: dict[str, int], wanted: dict[str, int], more: dict[str, int], known: int, seed: int
) -> None:
    candidates = make_seeds(numbered([name for name in NAMES for _ in range(supply[name])]))
    used = set(candidates["instruction_id"].to_list()[:known])
    larger = {name: wanted[name] + more[name] for name in NAMES}
    draws = [draw_balanced(candidates, counts, derive_rng(seed), [used]) for counts in (wanted, larger)]
    less, all_of_it = (set(draw.rows["instruction_id"]) for draw in draws)
    assert less <= all_of_it


def test_another_seed_draws_other_rows() -> None:
    candidates = make_seeds(numbered(["Math"] * 50))
    draws = {
        tuple(draw_balanced(candidates, {"Math": 5}, derive_rng(seed)).rows["instruction_id"]) for seed in range(5)
    }
    assert len(draws) == 5


def test_equal_shares_are_those_of_the_task_types_that_the_pool_has() -> None:
    natural = {"Law": 0.7, "Math": 0.2, "Refund": 0.1}
    assert set(target_shares("equal", natural).values()) == {1 / 3}
    assert target_shares("equal", natural).keys() == natural.keys()
    assert target_shares("natural", natural) == natural
    assert target_shares({"Law": 1.0}, natural) == {"Law": 1.0}
    assert target_shares("equal", {}) == {}


def test_reports_list_the_papers_task_types_by_the_recipe_and_own_ones_by_name() -> None:
    assert in_order(["Law", "Others", "Math"]) == ["Math", "Others", "Law"]
    assert in_order(["Refund", "Others", "Delivery", "Math"]) == ["Math", "Delivery", "Refund", "Others"]


def test_the_share_table_has_all_task_types_and_survives_empty_tables() -> None:
    pool, mixture = make_labels(numbered(["Math", "Math", "Law", "Law"])), make_seeds(numbered(["Math"]))
    table = share_table(TASK_TYPES, pool, TARGET_SHARES, mixture)
    assert table["task_type"].to_list() == list(TASK_TYPES)
    assert table.row(0) == ("Math", 0.5, 0.167, 1.0)
    assert share_table(TASK_TYPES, make_labels({}), {"Math": 1.0}, make_seeds({}))["got"].sum() == 0
    assert shares_of(pool) == {"Law": 0.5, "Math": 0.5}
    assert supply_of(mixture) == {"Math": 1}


def test_rows_without_a_task_type_are_in_no_share():
    rows = make_labels({"a": "Math", "b": None, "c": "Music", "d": None})
    assert supply_of(rows) == {"Math": 1, "Music": 1}
    assert shares_of(rows) == {"Math": 0.5, "Music": 0.5}
