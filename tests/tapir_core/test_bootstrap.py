"""Figures over run seeds and items: known differences are found, chance is not, and what covers what is told."""

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapir_core.statistics import (
    COVERS,
    RERUN_SD,
    Resampled,
    Values,
    at_weights,
    effective_size,
    paired_values,
    rerun_sd,
    resample,
)

DRAWS = 2000


def pairs(
    run_seeds: int, items: int, gain: float, *, spread: float = 0.0, shared: bool = False, draw: int = 0
) -> Values:
    """Differences of two students, item by item: −1, 0 or 1, on average ``gain`` ± ``spread`` between run seeds."""
    generator = np.random.default_rng(draw)
    skill = generator.beta(0.6, 0.6, size=(1 if shared else run_seeds, items))
    found: dict[int, dict[str, float]] = {}
    for seed in range(run_seeds):
        gained = gain + generator.normal(0, spread)
        base = 0.05 + 0.9 * skill[0 if shared else seed]
        one, other = (generator.random(items) < np.clip(base + sign * gained / 2, 0, 1) for sign in (1, -1))
        names = [f"{item}" if shared else f"{seed} {item}" for item in range(items)]
        found[seed] = dict(zip(names, (one.astype(float) - other).tolist(), strict=True))
    return found


@pytest.mark.parametrize("shared", [False, True])
def test_a_clear_difference_is_found_and_none_is_not(shared: bool) -> None:
    clear = resample(pairs(3, 400, 0.2, shared=shared), rng=random.Random(1), draws=DRAWS)
    none = resample(pairs(3, 400, 0.0, shared=shared), rng=random.Random(1), draws=DRAWS)
    assert clear is not None
    assert none is not None
    assert clear.low < clear.low90 < clear.value < clear.high90 < clear.high
    assert clear.low90 > 0.1
    assert clear.p < 0.01
    assert none.low90 < 0 < none.high90
    assert none.p > 0.1


@pytest.mark.parametrize(("spread", "shared"), [(0.0, False), (0.03, False), (0.03, True)])
def test_the_interval_of_three_run_seeds_holds_the_true_difference_as_often_as_it_says(
    spread: float, shared: bool
) -> None:
    held = 0
    for draw in range(300):
        found = resample(
            pairs(3, 360, 0.05, spread=spread, shared=shared, draw=draw), rng=random.Random(draw), draws=500
        )
        assert found is not None
        held += found.low90 <= 0.05 <= found.high90
    assert held >= 0.87 * 300


@pytest.mark.parametrize("run_seeds", [2, 3])
def test_run_seeds_that_differ_much_make_no_interval_that_holds_the_truth_too_seldom(run_seeds: int) -> None:
    """With 30 points between them: two or three show their own spread badly."""
    generator, held = np.random.default_rng(7), 0
    for draw in range(300):
        values = {
            seed: {f"{seed} {item}": 0.3 * gain for item in range(20)}
            for seed, gain in enumerate(generator.normal(size=run_seeds))
        }
        found = resample(values, rng=random.Random(draw), draws=500)
        assert found is not None
        held += found.low90 <= 0 <= found.high90
        assert (found.p <= 0.1) == (found.low90 > 0 or found.high90 < 0) or 0.08 < found.p < 0.12
    assert held >= 0.8 * 300


def test_an_answer_that_is_missing_changes_the_interval_hardly() -> None:
    """Run seeds with the same items have them in common, whether or not one lacks an answer."""
    [of_one] = pairs(1, 360, 0.05).values()
    values = {seed: dict(of_one) for seed in range(3)}
    lacking = {**values, 2: dict(list(of_one.items())[1:])}
    whole, less = (resample(each, rng=random.Random(1), draws=DRAWS) for each in (values, lacking))
    assert whole is not None
    assert less is not None
    assert less.high90 - less.low90 == pytest.approx(whole.high90 - whole.low90, rel=0.1)


def test_run_seeds_that_disagree_make_the_interval_wider() -> None:
    alike = {seed: {f"{seed} {item}": float(item % 2) for item in range(100)} for seed in range(3)}
    apart = {seed: {f"{seed} {item}": float(item % 2) + seed - 1 for item in range(100)} for seed in range(3)}
    one, other = (resample(each, rng=random.Random(1), draws=DRAWS) for each in (alike, apart))
    assert one is not None
    assert other is not None
    assert one.value == other.value
    assert other.high90 - other.low90 > 3 * (one.high90 - one.low90)


def test_with_one_run_seed_only_items_are_covered_and_it_says_so() -> None:
    found = resample(pairs(1, 200, 0.1), rng=random.Random(1), draws=DRAWS)
    assert found is not None
    assert (found.run_seeds, found.n, found.covers) == (1, 200, "items")
    several = resample(pairs(2, 200, 0.1), rng=random.Random(1), draws=DRAWS)
    assert several is not None
    assert (several.run_seeds, several.n, several.covers) == (2, 400, "items and run seeds")


def of_one_run_seed(values: list[float], rerun: float) -> Resampled:
    items = {f"{place:02}": value for place, value in enumerate(values)}
    found = resample({1: items}, rng=random.Random(1), draws=DRAWS, rerun=rerun)
    assert found is not None
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=26), st.floats(0.0, 5.0))
@example([0.0, 0.0], 0.03)
@example([1.0] + [0.0] * 25, 0.03)
def test_the_interval_of_one_run_seed_holds_that_of_the_items_alone(values: list[float], rerun: float) -> None:
    items, whole = of_one_run_seed(values, 0.0), of_one_run_seed(values, rerun)
    assert whole.value == items.value
    assert whole.low90 <= items.low90
    assert whole.high90 >= items.high90
    assert whole.low <= items.low
    assert whole.high >= items.high
    assert whole.low <= whole.low90 <= whole.value <= whole.high90 <= whole.high


def test_what_a_rerun_changes_adds_up_with_what_items_do() -> None:
    values = pairs(1, 400, 0.1)
    items, whole = (resample(values, rng=random.Random(1), rerun=rerun) for rerun in (0.0, rerun_sd(2)))
    assert items is not None
    assert whole is not None
    noise = 1.645 * 2**0.5 * RERUN_SD
    for end in ("low90", "high90"):
        of_items = abs(getattr(items, end) - items.value)
        assert abs(getattr(whole, end) - whole.value) == pytest.approx((of_items**2 + noise**2) ** 0.5, rel=1e-3)
    assert whole.p > items.p
    assert (items.covers, whole.covers) == ("items", "items and reruns")
    assert "a rerun changes (SD 2.1 points, measured on the quickstart student)" in COVERS[whole.covers]


def test_the_interval_of_one_run_seed_holds_the_truth_as_often_as_it_says_where_reruns_differ_as_much() -> None:
    held = []
    for draw in range(300):
        values = pairs(1, 600, 0.05, spread=rerun_sd(2), draw=draw)
        found = [resample(values, rng=random.Random(draw), draws=500, rerun=rerun) for rerun in (0.0, rerun_sd(2))]
        held.append([each is not None and each.low90 <= 0.05 <= each.high90 for each in found])
    of_items, whole = np.mean(held, axis=0)
    assert of_items < 0.8
    assert whole >= 0.87


def test_of_several_run_seeds_the_seeds_say_what_a_rerun_changes() -> None:
    values = pairs(3, 100, 0.1)
    assert resample(values, rng=random.Random(1), rerun=0.5) == resample(values, rng=random.Random(1))


def test_every_run_seed_has_the_same_weight_and_the_order_changes_nothing() -> None:
    values = {1: {"a": 1.0}, 2: {f"{item}": 0.0 for item in range(99)}}
    turned = {seed: dict(reversed(items.items())) for seed, items in reversed(values.items())}
    found = resample(values, rng=random.Random(3), draws=DRAWS)
    assert found is not None
    assert found.value == 0.5
    assert found == resample(turned, rng=random.Random(3), draws=DRAWS)


def test_a_p_value_is_never_0_and_agrees_with_the_interval() -> None:
    found = resample(pairs(3, 300, 0.9), rng=random.Random(1), draws=DRAWS)
    assert found is not None
    assert 0 < found.p < 0.01
    same = resample({1: {"a": 0.0, "b": 0.0}}, rng=random.Random(1), draws=DRAWS)
    assert same is not None
    assert (same.p, same.low, same.high) == (1.0, 0.0, 0.0)


def test_only_run_seeds_and_items_of_both_are_paired() -> None:
    first = {1: {"a": 1.0, "b": 0.0}, 2: {"a": 1.0}}
    second = {1: {"a": 0.0, "c": 1.0}, 3: {"a": 1.0}}
    assert paired_values(first, second) == {1: {"a": 1.0}}
    assert resample({}, rng=random.Random(1)) is None
    assert resample({1: {}}, rng=random.Random(1)) is None


WEIGHTS = {1: {"a": 3.0, "b": 1.0, "c": 1.0}, 2: {"d": 2.0, "e": 2.0}}


def test_at_weights_the_mean_of_a_run_seed_is_its_weighted_mean() -> None:
    found = at_weights({1: {"a": 1.0, "b": 0.0}, 2: {"d": 1.0, "e": 0.0}}, WEIGHTS)
    assert sum(found[1].values()) / 2 == pytest.approx(0.75)
    assert found[2] == {"d": 1.0, "e": 0.0}, "equal weights change nothing"
    assert at_weights({1: {}}, WEIGHTS) == {1: {}}


def test_items_of_great_weight_make_a_weighted_mean_less_sure() -> None:
    draws = random.Random(1)
    values = {1: {str(item): float(draws.random() < 0.6) for item in range(400)}}
    weights = {1: {str(item): 10.0 if item < 40 else 1.0 for item in range(400)}}
    plain, weighted = (resample(each, rng=random.Random(2)) for each in (values, at_weights(values, weights)))
    assert plain is not None
    assert weighted is not None
    size = effective_size(weights[1].values())
    ratio = (weighted.high - weighted.low) / (plain.high - plain.low)
    assert ratio == pytest.approx((400 / size) ** 0.5, rel=0.15)
