import asyncio

from hypothesis import given
from hypothesis import strategies as st

from tapir_core.calls.limits import AddressLimit, Limiter


def limiter_of(*limits: int) -> Limiter:
    return Limiter([AddressLimit(limit) for limit in limits])


async def work(limiter: Limiter, most: list[int]) -> None:
    slot = await limiter.acquire()
    most.append(limiter.in_flight)
    await asyncio.sleep(0)
    slot.release()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 30))
def test_never_more_than_the_limits_and_everybody_gets_a_turn(limits: list[int], workers: int):
    async def run() -> None:
        limiter, most = limiter_of(*limits), list[int]()
        await asyncio.gather(*(work(limiter, most) for _ in range(workers)))
        assert len(most) == workers
        assert max(most) == min(sum(limits), workers)
        assert limiter.in_flight == 0

    asyncio.run(run())


def test_a_slot_given_back_twice_counts_once():
    async def run() -> None:
        limiter = limiter_of(2)
        slot, _ = await limiter.acquire(), await limiter.acquire()
        slot.release()
        slot.release()
        assert limiter.in_flight == 1

    asyncio.run(run())


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_who_is_cancelled_while_waiting_takes_no_slot_along(cancelled: list[bool]):
    async def run() -> None:
        limiter, most = limiter_of(1), list[int]()
        slot = await limiter.acquire()
        tasks = [asyncio.create_task(work(limiter, most)) for _ in cancelled]
        await asyncio.sleep(0)
        # The first waiter is handed the slot in the same turn in which some are cancelled.
        slot.release()
        for task, cancel in zip(tasks, cancelled, strict=True):
            if cancel:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(most) == cancelled.count(False)
        assert limiter.in_flight == 0

    asyncio.run(run())


def test_the_smaller_of_two_ceilings_holds():
    address = AddressLimit(8)
    limiter = Limiter([address])
    limiter.lower_to(3)
    limiter.lower_to(5)
    assert (address.ceiling, address.limit) == (3, 3)


def test_the_next_call_goes_where_the_load_is_least():
    async def run() -> None:
        small, large = AddressLimit(4), AddressLimit(8)
        limiter = Limiter([small, large])
        places = [(await limiter.acquire()).at for _ in range(9)]
        assert places.count(large) in (5, 6)
        assert places.count(large) + places.count(small) == 9

    asyncio.run(run())


def test_an_address_out_of_service_gets_nothing_until_it_is_back():
    async def run() -> None:
        closed, opened = AddressLimit(4), AddressLimit(1)
        closed.limit = 0
        limiter = Limiter([closed, opened])
        slot = await limiter.acquire()
        assert slot.at is opened
        waiter = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        assert not waiter.done()
        closed.limit = 1
        limiter.wake()
        assert (await waiter).at is closed

    asyncio.run(run())
