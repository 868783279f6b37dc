"""Attempts on their event loop: what an interrupt, a stop or a store that fails between booking and sending leaves."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import pytest

from tapir_core.calls.books import Books, UnsentError
from tapir_core.calls.budget import Attempt, Settlement
from tapir_core.calls.types import Endpoint, Spend
from tapir_core.config import BudgetConfig
from tests.doubles.provider import make_request

ENDPOINT = Endpoint("http://127.0.0.1:9/v1", 8)


class SlowStore:
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


def books_on(store: SlowStore, stopping: threading.Event | None = None) -> Books:
    return Books(store, BudgetConfig(), "a-run", stopping or threading.Event())  # type: ignore[arg-type]


async def send(books: Books) -> str:
    books.end(await books.book("a key", make_request(), ENDPOINT))
    return "sent"


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def run(work: Callable[[SlowStore, Books], Awaitable[None]]) -> SlowStore:
    store = SlowStore()

    async def go() -> None:
        await work(store, books_on(store))

    asyncio.run(go())
    return store


@pytest.mark.parametrize("turns_before", [0, 1, 2, 3])
def test_who_is_interrupted_while_its_booking_is_committed_gives_it_back(turns_before: int):
    """Before the commit's end, and between its end and the asker's next turn."""

    async def work(store: SlowStore, books: Books) -> None:
        sender = asyncio.create_task(send(books))
        await turns()
        if turns_before:
            store.commit()
            await turns(turns_before - 1)  # the answer is on its way, and its asker has not seen it
        sender.cancel()
        await asyncio.wait([sender])
        if not turns_before:
            assert books.may_make_room, "who is refused beside it waits for what becomes of it"
            store.commit()
        await turns()
        assert sender.cancelled()
        assert not books.may_make_room

    store = run(work)
    ((booked, _),) = store.bookings
    assert store.settled == [Settlement(booked[0].id, "", Spend())]


def test_what_was_booked_when_the_run_is_told_to_stop_is_not_sent_and_costs_nothing():
    store, stopping = SlowStore(), threading.Event()

    async def work() -> None:
        sender = asyncio.create_task(send(books_on(store, stopping)))
        await turns()
        stopping.set()
        store.commit()
        with pytest.raises(UnsentError, match="the run was stopped before"):
            await sender

    asyncio.run(work())
    assert [each.spent for each in store.settled] == [Spend()]


def test_a_store_that_fails_to_book_ends_the_attempt_with_its_reason_and_nobody_waits_for_it():
    async def work(store: SlowStore, books: Books) -> None:
        sender = asyncio.create_task(send(books))
        await turns()
        store.bookings[-1][1].set_exception(OSError("the disk is full"))
        with pytest.raises(OSError, match="the disk is full"):
            await sender
        await turns()
        assert not books.may_make_room

    # A commit may have been made of which only the end was lost.
    assert [each.spent for each in run(work).settled] == [Spend()]


def test_who_is_refused_with_nothing_open_is_told_so_and_who_is_refused_beside_others_waits_for_their_end():
    async def work(store: SlowStore, books: Books) -> None:
        alone = asyncio.create_task(send(books))
        await turns()
        store.commit("budget.usd = 1 is reached")
        with pytest.raises(UnsentError, match="is reached"):
            await alone
        books.begun += 20
        beside = asyncio.create_task(send(books))
        await turns()
        store.commit("budget.usd = 1 is reached")
        await asyncio.sleep(0.2)
        assert (beside.done(), len(store.bookings)) == (False, 2), "nothing has changed, so nobody is asked"
        books.ended += 20
        while len(store.bookings) < 3:
            await asyncio.sleep(0.01)
        store.commit()
        assert await beside == "sent"

    assert len(run(work).bookings) == 3


def test_two_that_are_refused_at_once_do_not_wait_for_each_other():
    async def work(store: SlowStore, books: Books) -> None:
        senders = [asyncio.create_task(send(books)) for _ in range(2)]
        await turns()
        store.commit("budget.usd = 1 is reached")
        await turns()
        ended = await asyncio.gather(*senders, return_exceptions=True)
        assert all(isinstance(each, UnsentError) for each in ended)

    assert [len(attempts) for attempts, _ in run(work).bookings] == [2], "what is wanted in one turn is one write"
