import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from tapir_core.statistics import (
    PERCENT,
    SHARE,
    Scale,
    compare_paired,
    estimate_mean,
    estimate_ratio,
    estimate_share,
)

HALVES = st.integers(-18, 18).map(lambda half: half / 2)


def test_what_failed_is_counted_and_never_averaged_in() -> None:
    found = estimate_mean([1.0, None, 3.0, 2.0, 2.0], max_failed_share=0.5)
    assert (found.value, found.n, found.failed) == (2.0, 4, 1)


@pytest.mark.parametrize(("failed", "stands"), [(0, True), (1, True), (2, False), (20, False)])
def test_above_the_allowed_share_there_is_no_figure(failed: int, stands: bool) -> None:
    values = [*[1.0] * (20 - failed), *[None] * failed]
    found = estimate_mean(values, max_failed_share=0.05)
    assert (found.value is not None) == stands
    assert (found.failed, found.n) == (failed, 20 - failed)
    pairs = [None if each is None else (each, 2.0) for each in values]
    assert (estimate_ratio(pairs, max_failed_share=0.05).value is not None) == stands
    if not stands:
        assert f"{failed} of 20 judgments failed" in found.note


def test_exactly_the_allowed_share_may_fail() -> None:
    for failed in range(1, 100):
        values = [*[1.0] * (100 - failed), *[None] * failed]
        assert estimate_mean(values, max_failed_share=failed / 100).value == 1.0


def test_where_all_may_fail_there_is_still_nothing_to_measure() -> None:
    found = estimate_mean([None, None], max_failed_share=1)
    assert (found.value, found.note) == (None, "nothing to measure")
    assert estimate_mean([]).note == "nothing to measure"


def test_a_mean_over_clusters_is_that_of_all_values_with_the_error_of_cluster_means() -> None:
    turns = {"a": [1.0, 3.0], "b": [5.0, 7.0], "c": [2.0, 2.0], "d": [9.0, 8.0], "e": [4.0, 6.0]}
    values = [value for both in turns.values() for value in both]
    clusters = [name for name, both in turns.items() for _ in both]
    found = estimate_mean(values, clusters=clusters)
    means = [statistics.fmean(both) for both in turns.values()]
    assert found.value == pytest.approx(statistics.fmean(values))
    assert found.stderr == pytest.approx(statistics.stdev(means) / math.sqrt(5))
    assert found.n == 10
    alone = estimate_mean(values).stderr
    assert alone is not None
    assert found.stderr is not None
    assert found.stderr > alone, "turns of a question go together, and are no independent rows"


def test_copies_of_each_value_leave_the_error_as_it_is() -> None:
    values = [1.0, 4.0, 2.0, 8.0, 5.0]
    once = estimate_mean(values)
    thrice = estimate_mean(values * 3, clusters=list(range(5)) * 3)
    assert (thrice.value, thrice.stderr) == (once.value, pytest.approx(once.stderr))


def test_a_value_that_failed_takes_only_itself_from_its_cluster() -> None:
    found = estimate_mean([1.0, None, 5.0, 3.0], clusters=["a", "a", "b", "b"], max_failed_share=0.5)
    assert found.value == 3.0


@pytest.mark.parametrize("wins", [0, 1, 10, 19, 20])
@pytest.mark.parametrize("scale", [SHARE, PERCENT, (-1.0, 1.0), (1.0, 10.0)])
def test_a_mean_of_marks_at_the_ends_of_the_scale_has_wilsons_interval(wins: int, scale: Scale) -> None:
    """As a share of the held-out set has; Student's t would leave the scale, and have no width where all are won."""
    lowest, highest = scale
    values = [highest] * wins + [lowest] * (20 - wins)
    found, plain = estimate_mean(values, scale=scale), estimate_mean(values)
    assert (found.value, found.stderr) == (plain.value, plain.stderr), "value and error are the benchmark's own"
    wilson, span = estimate_share(wins, 20), highest - lowest
    assert wilson.low is not None
    assert wilson.high is not None
    assert found.low == pytest.approx(lowest + span * wilson.low)
    assert found.high == pytest.approx(lowest + span * wilson.high)
    again = estimate_mean(values * 2, clusters=list(range(20)) * 2, scale=scale)
    assert (again.low, again.high) == (found.low, found.high), "both turns of a question are one item"


@given(st.lists(st.integers(0, 20).map(lambda each: each / 2), min_size=4, max_size=30), st.integers(1, 3))
def test_an_interval_stays_on_its_scale_around_its_value(values: list[float], turns: int) -> None:
    clusters = [place // turns for place in range(len(values))]
    for found in (
        estimate_mean(values, scale=(0.0, 10.0)),
        estimate_mean(values, clusters=clusters, scale=(0.0, 10.0)),
        estimate_ratio([(value, 1.0) for value in values], scale=(0.0, 10.0)),
    ):
        assert found.value is not None
        assert (found.low is None) == bool(found.note)
        if found.low is not None and found.high is not None:
            assert 0 <= found.low <= found.value <= found.high <= 10
            assert found.low < found.high or 0 < found.value < 10


def test_ratings_beyond_a_scale_that_is_not_checked_stay_in_their_interval() -> None:
    found = estimate_mean([11.0, 11.0, 11.0, 10.0], scale=(1.0, 10.0))
    assert found.high == found.value == 10.75


def test_items_of_unequal_weight_count_as_fewer() -> None:
    """Thirty marks of one question and one of each other are hardly more than one question."""
    even = estimate_ratio([(1.0, 1.0)] * 10 + [(0.0, 1.0)] * 10, scale=SHARE)
    uneven = estimate_ratio([(30.0, 30.0), *[(1.0, 1.0)] * 9, *[(0.0, 1.0)] * 10], scale=SHARE)
    assert even.low is not None
    assert even.high is not None
    assert uneven.low is not None
    assert uneven.high is not None
    assert uneven.high - uneven.low > 1.3 * (even.high - even.low)


def values_of(seed: int, mean: float, n: int = 120) -> dict[str, float | None]:
    draw = random.Random(seed)
    return {f"item {number}": draw.gauss(mean, 1) for number in range(n)}


def test_a_student_that_is_better_on_the_same_items_is_found_better() -> None:
    worse = values_of(1, 5.0)
    draw = random.Random(2)
    better = {item: None if value is None else value + draw.gauss(0.2, 0.4) for item, value in worse.items()}
    found = compare_paired(better, worse)
    assert found.low is not None
    assert found.low > 0
    assert found.p is not None
    assert found.p < 0.001
    other_way = compare_paired(worse, better)
    assert other_way.value == pytest.approx(-found.value)
    assert other_way.p == pytest.approx(found.p, abs=0.001)


def test_two_students_alike_are_told_apart_one_time_in_twenty() -> None:
    p_values = [compare_paired(values_of(2 * seed, 5.0, 40), values_of(2 * seed + 1, 5.0, 40)).p for seed in range(200)]
    hits = sum(p_value is not None and p_value < 0.05 for p_value in p_values)
    assert 3 <= hits <= 20


def test_differences_that_are_all_alike_leave_no_spread() -> None:
    first: dict[str, float | None] = dict.fromkeys("abcd", 2.0)
    found = compare_paired(first, dict.fromkeys("abcd", 1.0))
    assert (found.value, found.low, found.p, found.note) == (1.0, None, None, "all 4 differ alike")
    assert compare_paired(first, first).p == 1


@given(st.lists(st.tuples(HALVES, HALVES), min_size=4, max_size=20))
def test_the_interval_holds_0_where_p_is_above_one_in_twenty(pairs: list[tuple[float, float]]) -> None:
    first, second = ({str(place): pair[side] for place, pair in enumerate(pairs)} for side in (0, 1))
    found = compare_paired(first, second)
    if found.p is None:
        assert found.low is None
        return
    assert found.low is not None
    assert found.high is not None
    assert (found.low <= 0 <= found.high) == (found.p >= 0.05)


def test_the_paired_test_is_scipys() -> None:
    first, second = values_of(1, 5.0, 15), values_of(2, 5.5, 15)
    expected = ttest_rel([*first.values()], [*second.values()])
    found, span = compare_paired(first, second), expected.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((span.low, span.high, expected.pvalue))


def test_items_that_lack_in_one_student_count_as_failed() -> None:
    first: dict[str, float | None] = {"a": 1.0, "b": None, "c": 2.0, "d": 4.0}
    second: dict[str, float | None] = {"a": 1.0, "b": 3.0, "c": 1.0, "e": 5.0}
    found = compare_paired(first, second, max_failed_share=0.6)
    assert (found.value, found.n, found.failed) == (0.5, 2, 3)
    refused = compare_paired(first, second)
    assert (refused.value, refused.p) == (None, None)
    assert "3 of 5 judgments failed" in refused.note
