"""The adaptive limit against simulated servers: what it settles at, what it ignores, how it comes back."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.calls.limits import TROUBLES, AddressLimit
from tests.tapir_core.calls.simulated_server import Serve, Simulation, seconds_of

SEEDS = pytest.mark.parametrize("seed", [1, 2, 3])


def steady(_: float, __: int, rng: random.Random) -> tuple[float, bool]:
    return seconds_of(rng), True


def with_room_for(capacity: int) -> Serve:
    """Refuses at once what is beyond its capacity."""

    def serve(_: float, inside: int, rng: random.Random) -> tuple[float, bool]:
        return (0.005, False) if inside >= capacity else (seconds_of(rng), True)

    return serve


def refusing_at_random(share: float, *, at_once: bool) -> Serve:
    def serve(_: float, __: int, rng: random.Random) -> tuple[float, bool]:
        refused = rng.random() < share
        return (0.005 if refused and at_once else seconds_of(rng)), not refused

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
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_refusals_that_do_not_depend_on_load_leave_at_least_half_in_flight(share: float, at_once: bool, seed: int):
    simulation = Simulation(refusing_at_random(share, at_once=at_once), ceiling=64, seed=seed)
    simulation.run(60)
    assert simulation.mean_limit(since=5) >= 0.8 * 64
    if share == 0.1:
        assert simulation.lowest_limit(since=5) >= 32


def test_calls_that_hang_do_not_lower_the_limit():
    simulation = Simulation(steady)
    simulation.run(5)
    for number in range(500):
        simulation.limit.count(TROUBLES["timeout"], began=simulation.now, now=simulation.now + 30)
        for _ in range(10):
            simulation.limit.count(TROUBLES["answer"], began=simulation.now, now=simulation.now + 0.2)
        assert simulation.limit.limit == 64, number


@SEEDS
@pytest.mark.parametrize("work", [0.2, 5, 20, 100])
def test_one_processor_is_asked_no_more_than_it_answers_in_time(work: float, seed: int):
    longest: list[float] = []

    def serve(_: float, inside: int, rng: random.Random) -> tuple[float, bool]:
        longest.append(work * (inside + 1) * rng.uniform(0.7, 1.4))
        return longest[-1], True

    simulation = Simulation(serve, seed=seed, slow_seconds=900)
    assert simulation.limit.limit == 4
    simulation.run(20_000)
    assert max(longest) < 900
    assert simulation.limit.limit >= min(64, 900 / 4 / work / 1.4), "and no less than it could be"


@SEEDS
@pytest.mark.parametrize("work", [5, 20, 100])
def test_short_answers_of_one_processor_do_not_crowd_out_long_ones(work: float, seed: int):
    """Labels of five tokens and answers of hundreds, at one time: the short ones come soon whatever waits."""
    longest: list[float] = []

    def serve(_: float, inside: int, rng: random.Random) -> tuple[float, bool]:
        is_long = rng.random() < 0.5
        longest.append((work if is_long else 1.0) * (inside + 1))
        return longest[-1], True

    simulation = Simulation(serve, seed=seed, slow_seconds=900)
    simulation.run(20_000)
    assert max(longest) < 900
    assert simulation.limit.limit >= min(32, 900 / 4 / work), "and no less than it could be"


def test_a_slow_address_is_asked_less_after_its_first_time_out():
    limit = AddressLimit(64, slow_seconds=900)
    limit.enter(0.0)
    limit.count(TROUBLES["timeout"], began=0.0, now=900.0)
    limit.leave(0.0)
    assert limit.limit == 3


@SEEDS
def test_after_an_outage_of_30_seconds_it_is_back_within_seconds(seed: int):
    def serve(now: float, _: int, rng: random.Random) -> tuple[float, bool]:
        return (0.05, False) if 20 <= now < 50 else (seconds_of(rng), True)

    simulation = Simulation(serve, seed=seed)
    simulation.run(49)
    assert simulation.limit.limit == 1
    simulation.run(54)
    assert simulation.limit.limit >= 48


def test_a_capacity_that_grows_is_found():
    def serve(now: float, inside: int, rng: random.Random) -> tuple[float, bool]:
        return with_room_for(10 if now < 30 else 1000)(now, inside, rng)

    simulation = Simulation(serve)
    simulation.run(29)
    assert simulation.limit.limit <= 14
    simulation.run(60)
    assert simulation.limit.limit == 64


def fill(limit: AddressLimit, in_flight: int) -> None:
    while limit.in_flight < in_flight:
        limit.enter(1.0)


def test_a_limit_that_is_not_used_does_not_grow():
    limit = AddressLimit(64)
    for number in range(1000):
        limit.enter(number)
        limit.count(TROUBLES["answer"], began=number, now=number + 0.2)
        limit.leave(number)
    assert limit.limit == AddressLimit(64).limit == 32


@given(
    st.integers(1, 300), st.lists(st.tuples(st.sampled_from(list(TROUBLES.values())), st.floats(0, 100)), max_size=300)
)
def test_whatever_happens_the_limit_stays_between_one_and_the_ceiling(ceiling: int, replies: list[tuple[int, float]]):
    limit, now = AddressLimit(ceiling), 0.0
    for trouble, seconds in replies:
        fill(limit, limit.limit)
        now += seconds / 10
        limit.count(trouble, began=now - seconds, now=now)
        assert 1 <= limit.limit <= ceiling


@pytest.mark.parametrize(("one_of", "lowered"), [(3, True), (5, False)])
def test_time_outs_of_more_than_a_quarter_lower_the_limit(one_of: int, lowered: bool):
    simulation = Simulation(steady)
    simulation.run(5)
    for number in range(600):
        kind = "timeout" if number % one_of == 0 else "answer"
        simulation.limit.count(TROUBLES[kind], began=simulation.now, now=simulation.now + 0.2)
    assert (simulation.limit.limit < 64) is lowered


def test_a_ceiling_lowered_later_holds():
    simulation = Simulation(steady)
    simulation.run(5)
    simulation.limit.ceiling = 8
    simulation.run(10)
    assert simulation.limit.limit == 8


@pytest.mark.parametrize(("in_flight", "grows"), [(5, False), (11, False), (12, True), (16, True)])
def test_a_limit_grows_only_while_three_quarters_of_it_are_used(in_flight: int, grows: bool):
    limit = AddressLimit(32)
    assert limit.limit == 16
    fill(limit, in_flight)
    limit.count(0, began=1.0, now=2.0)
    assert (limit.limit > 16) is grows
