"""Attempts on their event loop: what an interrupt, a stop or a store that fails between booking and sending leaves."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import pytest

from tapir_core.calls.budget import Attempt, Settlement, Spend, SpendMeter
from tapir_core.calls.sending import Attempts, UnsentError
from tapir_core.calls.types import Endpoint
from tapir_core.config import BudgetConfig
from tests.doubles.provider import make_request

ENDPOINT = Endpoint("http://127.0.0.1:9/v1", 8)


class SlowBooks:
    """A store whose commits end when the test says so."""

    def __init__(self) -> None:
        self.bookings: list[tuple[list[Attempt], Future[list[str]]]] = []
        self.settled: list[Settlement] = []

    def book(self, attempts: list[Attempt], budget: BudgetConfig) -> Future[list[str]]:
        self.bookings.append((attempts, Future()))
        return self.bookings[-1][1]

    def settle(self, settlement: Settlement) -> None:
        self.settled.append(settlement)

    def commit(self, refusal: str = "") -> None:
        attempts, booking = self.bookings[-1]
        booking.set_result([refusal for _ in attempts])


def attempts_of(books: SlowBooks, stopping: threading.Event | None = None) -> Attempts:
    stopping = stopping or threading.Event()
    return Attempts(books, BudgetConfig(), "a-run", SpendMeter(), stopping)  # type: ignore[arg-type]


async def send(attempts: Attempts, number: int = 0) -> str:
    attempts.end(await attempts.book(f"key {number}", make_request(), ENDPOINT))
    return "sent"


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def run(work: Callable[[SlowBooks, Attempts], Awaitable[None]]) -> SlowBooks:
    books = SlowBooks()

    async def go() -> None:
        await work(books, attempts_of(books))

    asyncio.run(go())
    return books


def test_all_that_begin_in_one_turn_of_the_loop_are_one_write():
    async def work(books: SlowBooks, attempts: Attempts) -> None:
        senders = [asyncio.create_task(send(attempts, number)) for number in range(5)]
        await turns()
        books.commit()
        assert await asyncio.gather(*senders) == ["sent"] * 5

    ((booked, _),) = run(work).bookings
    assert [each.key for each in booked] == [f"key {number}" for number in range(5)]


@pytest.mark.parametrize("turns_before", [0, 1])
def test_who_is_interrupted_while_its_booking_is_committed_gives_it_back(turns_before: int):
    """Before the commit's end, and between its end and the asker's next turn."""

    async def work(books: SlowBooks, attempts: Attempts) -> None:
        sender = asyncio.create_task(send(attempts))
        await turns()
        if turns_before:
            books.commit()
            await asyncio.sleep(0)  # the answer is there, and its asker has not seen it
        sender.cancel()
        await asyncio.wait([sender])
        if not turns_before:
            books.commit()
        await turns()
        assert sender.cancelled()
        assert not attempts.may_make_room

    books = run(work)
    ((booked, _),) = books.bookings
    assert books.settled == [Settlement(booked[0].id, "", Spend())]


def test_what_was_booked_when_the_run_is_told_to_stop_is_not_sent_and_costs_nothing():
    books, stopping = SlowBooks(), threading.Event()

    async def work() -> None:
        sender = asyncio.create_task(send(attempts_of(books, stopping)))
        await turns()
        stopping.set()
        books.commit()
        with pytest.raises(UnsentError, match="told to stop"):
            await sender

    asyncio.run(work())
    assert [each.spent for each in books.settled] == [Spend()]


def test_a_store_that_fails_to_book_ends_the_attempt_with_its_reason():
    async def work(books: SlowBooks, attempts: Attempts) -> None:
        sender = asyncio.create_task(send(attempts))
        await turns()
        books.bookings[-1][1].set_exception(OSError("the disk is full"))
        with pytest.raises(OSError, match="the disk is full"):
            await sender

    assert run(work).settled == []


def test_who_is_refused_with_nothing_open_is_told_so_and_who_is_refused_beside_others_waits_for_their_end():
    async def work(books: SlowBooks, attempts: Attempts) -> None:
        alone = asyncio.create_task(send(attempts))
        await turns()
        books.commit("budget.usd = 1 is reached")
        with pytest.raises(UnsentError, match="is reached"):
            await alone
        attempts.opened(20)
        beside = asyncio.create_task(send(attempts))
        await turns()
        books.commit("budget.usd = 1 is reached")
        await turns(10)
        assert (beside.done(), len(books.bookings)) == (False, 2), "nothing has changed, so nobody is asked"
        attempts.closed(20)
        await turns(20)
        books.commit()
        assert await beside == "sent"

    assert len(run(work).bookings) == 3
