import asyncio

from hypothesis import given
from hypothesis import strategies as st

from tapir_core.calls.limiter import Limiter


async def work(limiter: Limiter, most: list[int]) -> None:
    with await limiter.acquire():
        most.append(limiter.in_flight)
        await asyncio.sleep(0)


@given(st.integers(1, 5), st.integers(1, 30))
def test_never_more_than_the_limit_and_everybody_gets_a_turn(limit: int, workers: int):
    async def run() -> None:
        limiter, most = Limiter(limit), list[int]()
        await asyncio.gather(*(work(limiter, most) for _ in range(workers)))
        assert len(most) == workers
        assert max(most) == min(limit, workers)
        assert limiter.in_flight == 0

    asyncio.run(run())


def test_a_slot_given_back_twice_counts_once():
    async def run() -> None:
        limiter = Limiter(2)
        slot, _ = await limiter.acquire(), await limiter.acquire()
        slot.release()
        slot.release()
        assert limiter.in_flight == 1

    asyncio.run(run())


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_who_is_cancelled_while_waiting_takes_no_slot_along(cancelled: list[bool]):
    async def run() -> None:
        limiter, most = Limiter(1), list[int]()
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


def test_the_smaller_of_two_limits_holds():
    limiter = Limiter(8)
    limiter.lower_to(3)
    limiter.lower_to(5)
    assert limiter.limit == 3
