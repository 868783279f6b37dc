import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.judging.check import in_words
from tapir_core.statistics import (
    Estimate,
    estimate_difference,
    estimate_kappa,
    estimate_mean,
    estimate_ratio,
    estimate_share,
    estimate_spearman,
)

HALVES = st.integers(-18, 18).map(lambda half: half / 2)
PAIRS = st.lists(st.tuples(HALVES, HALVES), max_size=30)
CLASSES = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), max_size=30)


def columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [one for one, _ in pairs], [other for _, other in pairs]


def assert_sound(estimate: Estimate) -> None:
    """Either a value in its interval, or a reason; never NaN."""
    numbers = [each for each in (estimate.value, estimate.low, estimate.high, estimate.stderr) if each is not None]
    assert all(math.isfinite(each) for each in numbers)
    assert (estimate.low is None) == (estimate.high is None) == bool(estimate.note)
    if estimate.value is None:
        assert estimate.note
        assert estimate.low is None
    elif estimate.low is not None and estimate.high is not None:
        assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9


def test_a_mean_has_students_t_interval() -> None:
    found = estimate_mean([0.0, 0.0, 0.0, 4.0])
    assert (found.value, found.n, found.stderr) == (1.0, 4, 1.0)
    assert (found.low, found.high) == (pytest.approx(1 - 3.182, abs=0.01), pytest.approx(1 + 3.182, abs=0.01))
    wide = estimate_mean([0.0, 2.0] * 500)
    assert wide.stderr is not None
    assert wide.high == pytest.approx(1 + 1.9623 * wide.stderr, abs=1e-5)


@pytest.mark.parametrize(
    ("hits", "low", "high"), [(0, 0.0, 0.2775), (5, 0.2366, 0.7634), (10, 0.7225, 1.0)], ids=["none", "half", "all"]
)
def test_a_share_has_wilsons_interval_also_at_its_ends(hits: int, low: float, high: float) -> None:
    found = estimate_share(hits, 10)
    assert found.value == hits / 10
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_ratio_is_that_of_sums() -> None:
    found = estimate_ratio([(6.0, 9.0), (8.0, 8.0), (7.0, 10.0), (9.0, 9.0)])
    assert found.value == 30 / 36
    gaps = [top - 30 / 36 * bottom for top, bottom in zip([6, 8, 7, 9], [9, 8, 10, 9], strict=True)]
    assert found.stderr == pytest.approx(math.sqrt(sum(gap**2 for gap in gaps) / 3 / 4) / 9)
    assert estimate_ratio([(1.0, 0.0)]).note == "a ratio to 0"


def test_the_difference_of_two_sets_needs_both() -> None:
    assert estimate_difference([1.0], []).value is None
    assert estimate_difference([3.0, 4.0, 5.0], [1.0, 1.0]).value == 3.0


def test_a_set_of_one_item_says_nothing_of_its_spread() -> None:
    """One item that went one way is no bias: the other set alone would have made the interval."""
    for first, second in (([100.0], [0.0] * 40), ([0.0, 50.0, 100.0] * 20, [0.0] * 3)):
        found = estimate_difference(first, second)
        assert found.value is not None
        assert (found.low, found.high, found.stderr) == (None, None, None)
        assert found.note == f"{len(first)} items against {len(second)} only"


def test_the_interval_of_a_difference_is_welchs() -> None:
    """8.739 degrees of freedom, whose 97.5 % point of t is 2.2725 (by integration of its density)."""
    first, second = [3.0, 4.0, 5.0, 1.0, 2.0], [4.0, 5.0, 8.0, 3.0, 9.0, 6.0]
    found = estimate_difference(first, second)
    assert (found.value, found.n) == (pytest.approx(-17 / 6), 11)
    assert found.stderr == pytest.approx(1.180866, abs=1e-6)
    assert (found.low, found.high) == (pytest.approx(-5.51685, abs=1e-3), pytest.approx(-0.14982, abs=1e-3))


def test_spearman_of_a_known_example() -> None:
    found = estimate_spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5])
    assert found.value == pytest.approx(0.8)
    error = 1.96 * math.sqrt((1 + 0.8**2 / 2) / 2)
    assert found.low == pytest.approx(math.tanh(math.atanh(0.8) - error), abs=1e-3)


def test_ties_take_their_mean_rank() -> None:
    assert estimate_spearman([1, 2, 2, 3], [1, 2, 3, 4]).value == pytest.approx(math.sqrt(0.9))


def test_kappa_of_the_example_of_fleiss_cohen_and_everitt() -> None:
    counts = {"aa": 106, "ab": 10, "ac": 4, "ba": 22, "bb": 28, "bc": 10, "ca": 2, "cb": 12, "cc": 6}
    rows = [pair for pair, count in counts.items() for _ in range(count)]
    found = estimate_kappa([pair[0] for pair in rows], [pair[1] for pair in rows])
    assert (found.value, found.n) == (pytest.approx(0.429, abs=1e-3), 200)
    assert found.stderr == pytest.approx(0.0537, abs=1e-4)


def test_agreement_by_chance_alone_is_no_agreement() -> None:
    assert estimate_kappa(["a", "a", "b", "b"], ["a", "b", "a", "b"]).value == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (estimate_mean([]), "nothing to measure"),
        (estimate_share(0, 0), "nothing to measure"),
        (estimate_spearman([], []), "nothing to measure"),
        (estimate_spearman([1.0], [2.0]), "1 row only"),
        (estimate_spearman([5.0] * 9, list(range(9))), "one of the two never changes"),
        (estimate_kappa([], []), "nothing to measure"),
        (estimate_kappa(["tie"] * 9, ["tie"] * 9), "every row has the same class"),
    ],
)
def test_what_is_not_defined_says_why(found: Estimate, why: str) -> None:
    assert (found.value, found.note) == (None, why)


@pytest.mark.parametrize(
    ("found", "value", "why"),
    [
        (estimate_mean([2.0]), 2.0, "1 row only"),
        (estimate_mean([2.0, 4.0]), 3.0, "2 rows only"),
        (estimate_spearman([1, 2], [3, 4]), 1.0, "2 rows only"),
        (estimate_spearman([1, 2, 3], [1, 2, 3]), 1.0, "3 rows only"),
        (estimate_spearman(range(9), range(9)), 1.0, "both rank the rows alike"),
        (estimate_spearman(range(9), range(9, 0, -1)), -1.0, "each ranks the rows the other way"),
        (estimate_kappa("ab", "ab"), 1.0, "2 rows only"),
        (estimate_kappa("aabb", "aabb"), 1.0, "the rows leave no spread to take an interval from"),
        (estimate_kappa("aaaa", "aabb"), 0.0, "the rows leave no spread to take an interval from"),
    ],
)
def test_a_value_without_an_interval_says_why(found: Estimate, value: float, why: str) -> None:
    assert (found.value, found.low, found.note) == (value, None, why)


@given(st.lists(HALVES, max_size=30))
def test_a_mean_is_sound(values: list[float]) -> None:
    assert_sound(estimate_mean(values))


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_share_is_sound(hits: int, others: int) -> None:
    assert_sound(estimate_share(hits, hits + others))


@given(PAIRS)
def test_a_rank_correlation_is_sound_and_has_no_sides(pairs: list[tuple[float, float]]) -> None:
    first, second = columns(pairs)
    found = estimate_spearman(first, second)
    assert_sound(found)
    assert found == estimate_spearman(second, first)


@given(PAIRS)
def test_ranks_alone_count(pairs: list[tuple[float, float]]) -> None:
    first, second = columns(pairs)
    assert estimate_spearman(first, second) == estimate_spearman([value**3 + 5 for value in first], second)


@given(CLASSES)
def test_a_kappa_is_sound_and_has_no_sides(pairs: list[tuple[str, str]]) -> None:
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    found, back = estimate_kappa(first, second), estimate_kappa(second, first)
    assert_sound(found)
    assert found.value == pytest.approx(back.value)
    assert found.stderr == pytest.approx(back.stderr)


@given(CLASSES)
def test_names_of_classes_do_not_matter_to_kappa(pairs: list[tuple[str, str]]) -> None:
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    renamed = [[{"a": "z", "b": "y", "c": "x"}[name] for name in side] for side in (first, second)]
    assert estimate_kappa(*renamed) == estimate_kappa(first, second)


def test_in_words_a_figure_has_its_interval_where_there_is_one() -> None:
    assert in_words(estimate_mean([]), ".1f") == "–"
    assert in_words(estimate_mean([2.0]), ".1f", "points") == "2.0 points"
    assert in_words(estimate_share(5, 10), ".0%") == "50% (24% to 76%, n = 10)"
