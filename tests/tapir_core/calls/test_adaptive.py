"""The adaptive limit against simulated servers: what it settles at, what it ignores, how it comes back."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.calls.adaptive import AdaptiveLimit, first_limit
from tapir_core.calls.limiter import Place
from tests.tapir_core.calls.simulated_server import Serve, Simulation, seconds_of

SEEDS = pytest.mark.parametrize("seed", [1, 2, 3])


def steady(_: float, __: int, rng: random.Random) -> tuple[float, int | None]:
    return seconds_of(rng), 200


def with_room_for(capacity: int) -> Serve:
    """Refuses at once what is beyond its capacity."""

    def serve(_: float, inside: int, rng: random.Random) -> tuple[float, int | None]:
        return (0.005, None) if inside >= capacity else (seconds_of(rng), 200)

    return serve


def refusing_at_random(share: float, *, at_once: bool) -> Serve:
    def serve(_: float, __: int, rng: random.Random) -> tuple[float, int | None]:
        refused = rng.random() < share
        return (0.005 if refused and at_once else seconds_of(rng)), None if refused else 200

    return serve


def slowing_beyond(knee: int) -> Serve:
    """Works on so many calls at a time; the others wait inside."""

    def serve(_: float, inside: int, rng: random.Random) -> tuple[float, int | None]:
        return seconds_of(rng) * max(1.0, (inside + 1) / knee), 200

    return serve


@pytest.mark.parametrize("ceiling", [1, 2, 16, 64, 256])
def test_a_server_without_troubles_is_used_up_to_the_ceiling(ceiling: int):
    simulation = Simulation(steady, ceiling=ceiling)
    simulation.run(10)
    assert simulation.lowest_limit(since=2) == ceiling


@SEEDS
@pytest.mark.parametrize(("capacity", "ceiling"), [(4, 64), (16, 64), (40, 64), (100, 256)])
def test_it_settles_near_a_hard_capacity(capacity: int, ceiling: int, seed: int):
    simulation = Simulation(with_room_for(capacity), ceiling=ceiling, seed=seed)
    simulation.run(60)
    assert 0.7 * capacity <= simulation.mean_limit(since=20) <= 1.25 * capacity
    assert simulation.mean_inside(since=20) >= 0.7 * capacity


@SEEDS
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_refusals_that_do_not_depend_on_load_leave_at_least_half_in_flight(share: float, at_once: bool, seed: int):
    simulation = Simulation(refusing_at_random(share, at_once=at_once), ceiling=64, seed=seed)
    simulation.run(60)
    assert simulation.mean_limit(since=5) >= 0.8 * 64
    if share == 0.1:
        assert simulation.lowest_limit(since=5) >= 32


@SEEDS
@pytest.mark.parametrize(("knee", "ceiling"), [(16, 64), (24, 96), (100, 256)])
def test_a_server_that_slows_with_load_is_not_pushed_far_beyond_its_knee(knee: int, ceiling: int, seed: int):
    simulation = Simulation(slowing_beyond(knee), ceiling=ceiling, seed=seed)
    simulation.run(120)
    assert knee <= simulation.mean_limit(since=30) <= 3 * knee
    # All that the server can give is taken.
    assert simulation.answered / 120 >= 0.95 * knee / 0.217


@SEEDS
def test_a_server_that_gains_by_batching_is_used_to_the_full(seed: int):
    def serve(_: float, inside: int, rng: random.Random) -> tuple[float, int | None]:
        tokens = rng.randint(20, 800)
        return tokens * (0.001 + 0.00001 * inside) * rng.lognormvariate(0, 0.1), tokens

    simulation = Simulation(serve, ceiling=256, seed=seed)
    simulation.run(300)
    assert simulation.mean_limit(since=60) >= 0.85 * 256


@SEEDS
def test_a_server_that_became_slow_for_everybody_keeps_its_calls(seed: int):
    def serve(now: float, _: int, rng: random.Random) -> tuple[float, int | None]:
        return seconds_of(rng) * (3 if now > 20 else 1), 200

    simulation = Simulation(serve, seed=seed)
    simulation.run(90)
    assert simulation.mean_limit(since=30) >= 0.8 * 64


@SEEDS
def test_long_answers_are_not_taken_for_overload(seed: int):
    def serve(now: float, _: int, rng: random.Random) -> tuple[float, int | None]:
        tokens = rng.randint(1, 20) if int(now / 15) % 2 else rng.randint(500, 1000)
        return 0.1 + 0.01 * tokens * rng.lognormvariate(0, 0.2), tokens

    simulation = Simulation(serve, seed=seed)
    simulation.run(120)
    assert simulation.mean_limit(since=20) >= 0.8 * 64


def test_calls_that_hang_do_not_lower_the_limit():
    simulation = Simulation(steady)
    simulation.run(5)
    for number in range(500):
        simulation.limit.timed_out(began=simulation.now, now=simulation.now + 30)
        for _ in range(10):
            simulation.limit.answered(began=simulation.now, now=simulation.now + 0.2, tokens=200)
        assert simulation.place.limit == 64, number


@SEEDS
def test_after_an_outage_of_30_seconds_it_is_back_within_seconds(seed: int):
    def serve(now: float, _: int, rng: random.Random) -> tuple[float, int | None]:
        return (0.05, None) if 20 <= now < 50 else (seconds_of(rng), 200)

    simulation = Simulation(serve, seed=seed)
    simulation.run(49)
    assert simulation.place.limit == 1
    simulation.run(54)
    assert simulation.place.limit >= 48


def test_a_capacity_that_grows_is_found():
    def serve(now: float, inside: int, rng: random.Random) -> tuple[float, int | None]:
        return with_room_for(10 if now < 30 else 1000)(now, inside, rng)

    simulation = Simulation(serve)
    simulation.run(29)
    assert simulation.place.limit <= 14
    simulation.run(60)
    assert simulation.place.limit == 64


def test_a_limit_that_is_not_used_does_not_grow():
    place = Place(64, 64)
    limit = AdaptiveLimit(place)
    for number in range(1000):
        place.in_flight = 1
        limit.answered(began=number, now=number + 0.2, tokens=10)
    assert place.limit == first_limit(64)


@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.sampled_from("alt"), st.floats(0, 100), st.integers(0, 999)), max_size=300),
)
def test_whatever_happens_the_limit_stays_between_one_and_the_ceiling(
    ceiling: int, replies: list[tuple[str, float, int]]
):
    place, now = Place(ceiling, ceiling), 0.0
    limit = AdaptiveLimit(place)
    for kind, seconds, tokens in replies:
        place.in_flight = place.limit
        now += seconds / 10
        match kind:
            case "a":
                limit.answered(began=now - seconds, now=now, tokens=tokens)
            case "l":
                limit.limited(began=now - seconds, now=now)
            case _:
                limit.timed_out(began=now - seconds, now=now)
        assert 1 <= place.limit <= ceiling


def test_a_ceiling_lowered_later_holds():
    simulation = Simulation(steady)
    simulation.run(5)
    simulation.place.ceiling = 8
    simulation.run(10)
    assert simulation.place.limit == 8
