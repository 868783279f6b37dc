"""Slots of an endpoint: never more than its addresses take, who waits longest first, and none lost."""

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from tapir_core.calls import Endpoint
from tapir_core.calls.endpoint import Line
from tapir_core.calls.types import LiveAddress, LiveAddresses
from tapir_core.config import CallsConfig
from tests.tapir_core.calls.engine_helpers import UnbookedAttempts


def line_of(*limits: int) -> Line:
    """A line to so many addresses, each of which takes so many calls at once."""
    live = LiveAddresses()
    live.set([LiveAddress(f"http://{number}", limit) for number, limit in enumerate(limits)])
    endpoint = Endpoint("all of them", 99, live=live)
    line = Line(endpoint, CallsConfig(), rng=random.Random(1), books=UnbookedAttempts())
    line.admit(endpoint)
    return line


def in_flight(line: Line) -> int:
    return sum(each.calls.in_flight for each in line.addresses.values())


async def work(line: Line, most: list[int]) -> None:
    slot = await line.slot()
    most.append(in_flight(line))
    await asyncio.sleep(0)
    slot.release()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 30))
def test_never_more_than_the_limits_and_everybody_gets_a_turn(limits: list[int], workers: int):
    async def run() -> None:
        line, most = line_of(*limits), list[int]()
        await asyncio.gather(*(work(line, most) for _ in range(workers)))
        assert len(most) == workers
        assert max(most) == min(sum(limits), workers)
        assert in_flight(line) == 0

    asyncio.run(run())


def test_who_waits_longest_is_next():
    async def run() -> None:
        line, order = line_of(1), list[int]()

        async def go(number: int) -> None:
            slot = await line.slot()
            order.append(number)
            slot.release()

        slot = await line.slot()
        waiting = [asyncio.create_task(go(number)) for number in range(5)]
        await asyncio.sleep(0)
        slot.release()
        await asyncio.gather(*waiting, go(5))
        assert order == [0, 1, 2, 3, 4, 5]

    asyncio.run(run())


def test_a_slot_given_back_twice_counts_once():
    async def run() -> None:
        line = line_of(2)
        slot, _ = await line.slot(), await line.slot()
        slot.release()
        slot.release()
        assert in_flight(line) == 1

    asyncio.run(run())


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_who_is_cancelled_while_waiting_takes_no_slot_along(cancelled: list[bool]):
    async def run() -> None:
        line, most = line_of(1), list[int]()
        slot = await line.slot()
        tasks = [asyncio.create_task(work(line, most)) for _ in cancelled]
        await asyncio.sleep(0)
        # The first waiter is handed the slot in the same turn in which some are cancelled.
        slot.release()
        for task, cancel in zip(tasks, cancelled, strict=True):
            if cancel:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(most) == cancelled.count(False)
        assert in_flight(line) == 0

    asyncio.run(run())


def test_the_smaller_of_two_ceilings_holds():
    async def run() -> None:
        line = Line(Endpoint("http://a", 8), CallsConfig(), rng=random.Random(1), books=UnbookedAttempts())
        line.admit(Endpoint("http://a", 3))
        line.admit(Endpoint("http://a", 5))
        (address,) = line.addresses.values()
        assert (address.calls.ceiling, address.limit) == (3, 3)

    asyncio.run(run())


def test_the_next_call_goes_where_the_load_is_least():
    async def run() -> None:
        line = line_of(4, 8)
        places = [(await line.slot()).at for _ in range(9)]
        small, large = sorted(line.addresses.values(), key=lambda each: each.limit)
        assert places.count(large) in (5, 6)
        assert places.count(large) + places.count(small) == 9

    asyncio.run(run())


def test_an_address_out_of_service_gets_nothing_until_it_is_probed_with_one_call():
    async def run() -> None:
        line = line_of(4, 1)
        opened, closed = sorted(line.addresses.values(), key=lambda each: each.limit)
        closed.take_out()
        slot = await line.slot()
        assert slot.at is opened
        waiting = [asyncio.create_task(line.slot()) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
        closed.is_probed = True
        line.hand_out()
        assert (await waiting[0]).at is closed
        await asyncio.sleep(0)
        assert not waiting[1].done()
        waiting[1].cancel()

    asyncio.run(run())
