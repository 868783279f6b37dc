"""Sends what the store lacks: slot, booked attempt, call, commit. All of it belongs to the engine's event loop.

One `Sending` serves one ask. Every attempt is booked in the store before it is sent and settled by its reply
(`Attempts`). One that ends without a reply (a time-out, a broken connection, an interrupt, a kill) stays booked at the
most that it can cost.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.asking import IsStopped
from tapir_core.calls.budget import LOST_HOLD, UNPAID, Attempt, SpendMeter, WorkClock, make_attempt, settlement
from tapir_core.calls.types import Endpoint, Failure, Outcome, Request
from tapir_core.calls.wire import Reply
from tapir_core.config import BudgetConfig

if TYPE_CHECKING:
    from tapir_core.calls.endpoint import Line, Slot

_Pending = tuple[Attempt, "asyncio.Future[str]"]

STOPPED = Failure("stopped", "the run was told to stop before this was sent")
"""Of a request that was not sent."""
_STOP_CHECK_SECONDS = 0.5
"""How long who waits for room may take to see that the run was told to stop."""

_CLOCK_SECONDS = 5.0
"""How far the hours that a cap sees may lag behind."""
Tell = Callable[[str, Outcome, bool], None]
"""Told each key with its outcome as it is committed, and whether another process paid for it."""


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A group of tasks; the first error among them is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


@dataclass(eq=False)
class UnsentError(Exception):
    """Raised where an attempt is not sent: no room under a cap, or the run stops. Never leaves the engine."""

    failure: Failure


class Attempts:
    """Books the attempts of one run in this process."""

    def __init__(
        self, store: AnswerStore, budget: BudgetConfig, run: str, meter: SpendMeter, stopping: threading.Event
    ) -> None:
        """Book for the run with the id ``run``; once ``stopping`` is set nothing more may be sent."""
        self.run = run
        self.budget = budget
        self.closings = 0
        """How often an attempt that was booked has ended: each time its reply may have left room."""
        self._store = store
        self._meter = meter
        self._stopping = stopping
        self._wanted: list[_Pending] = []
        self._pending = 0
        self._open = 0
        self._changed = asyncio.Event()

    @property
    def may_make_room(self) -> bool:
        """Whether a paid attempt of this process is open: its reply may cost less than what is booked for it."""
        return self._open > 0

    def opened(self, count: int) -> None:
        """So many attempts of a batch are booked and followed from here."""
        self._open += count

    def closed(self, count: int) -> None:
        """So many attempts are settled, or followed no more: who waits for room looks again."""
        self._open -= count
        self.closings += 1
        self._wake()

    async def book(self, key: str, request: Request, endpoint: Endpoint) -> Attempt:
        """An attempt at the request of ``key`` that may be sent; it waits for the room that open ones may leave.

        `end` has to follow, after `settle` where a reply says what it cost.

        Raises:
            UnsentError: a cap has no room for it, or the run was told to stop.
        """
        while not self._stopping.is_set():
            attempt, seen = make_attempt(self.run, key, request, endpoint), self.closings
            refusal = await self._try(attempt)
            if not refusal and not self._stopping.is_set():
                self._meter.count_sent()
                return attempt
            if not refusal:
                self._give_back(attempt)
                break
            await self._wait_for_room(seen)
            if self.closings == seen and not self._stopping.is_set():
                raise UnsentError(Failure("connection" if refusal == LOST_HOLD else "budget", refusal))
        raise UnsentError(STOPPED)

    def settle(self, attempt: Attempt, reply: Reply) -> None:
        """Write down what ``reply`` says that an attempt cost."""
        self._store.settle(settlement(attempt.id, reply))

    def end(self, attempt: Attempt) -> None:
        """An attempt is over, with a reply or without."""
        if attempt.role != UNPAID:
            self.closed(1)

    async def _wait_for_room(self, seen: int) -> None:
        """Until an attempt has ended since ``closings`` was ``seen``, or none is open that could.

        One may have ended while its refusal was on its way: its settlement may have queued behind it.
        """
        while self.closings == seen and (self._open or self._pending) and not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _STOP_CHECK_SECONDS)

    async def _try(self, attempt: Attempt) -> str:
        """Book an attempt, together with all that want to in this turn of the loop: one wake-up of it for all."""
        loop = asyncio.get_running_loop()
        if not self._wanted:
            loop.call_soon(self._book_wanted, loop)
        answer: asyncio.Future[str] = loop.create_future()
        self._wanted.append((attempt, answer))
        self._pending += 1
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and not answer.exception() and not answer.result():
                self._give_back(attempt)
            raise

    def _book_wanted(self, loop: asyncio.AbstractEventLoop) -> None:
        pending, self._wanted = self._wanted, []
        booking = self._store.book([attempt for attempt, _ in pending], self.budget)

        def pass_on(done: Future[list[str]]) -> None:
            # A loop that has ended has nobody left who waits; what was booked last stays booked then.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._answer, pending, done)

        booking.add_done_callback(pass_on)

    def _answer(self, pending: list[_Pending], booking: Future[list[str]]) -> None:
        error = booking.exception()
        refusals = [""] * len(pending) if error else booking.result()
        self._pending -= len(pending)
        # All that is booked counts as open before anybody who was refused looks whether something is.
        if not error:
            self._open += sum(
                attempt.role != UNPAID for (attempt, _), each in zip(pending, refusals, strict=True) if not each
            )
        for (attempt, answer), refusal in zip(pending, refusals, strict=True):
            if answer.done():  # its asker was interrupted meanwhile
                if not error and not refusal:
                    self._give_back(attempt)
            elif error:
                answer.set_exception(error)
            else:
                answer.set_result(refusal)
        if not self._open and not self._pending:
            self._wake()

    def _give_back(self, attempt: Attempt) -> None:
        """What was booked and is not sent costs nothing."""
        self._store.settle(settlement(attempt.id, None))
        self.end(attempt)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass(frozen=True, slots=True)
class Books:
    """What one engine answers from, pays from and counts in: the same for all of its asks."""

    store: AnswerStore
    attempts: Attempts
    meter: SpendMeter
    clock: WorkClock


class Sending:
    """The requests of one ask that were not in the store."""

    def __init__(self, books: Books, endpoint: Endpoint, tell: Tell, *, line: "Line", is_stopped: IsStopped) -> None:
        self._books = books
        self._endpoint = endpoint
        self._tell = tell
        self._line = line
        self._is_stopped = is_stopped

    async def send_all(self, missing: Mapping[str, Request]) -> None:
        """Bring every request to its outcome.

        What is not sent when ``is_stopped`` says so comes to `STOPPED`.
        """
        async with task_group() as group:
            for key, request in missing.items():
                # A slot first, its task then: a long list costs memory for what is in flight, not for its length.
                slot = None if self._is_stopped() else await self._line.slot()
                if slot is None or self._is_stopped():
                    if slot is not None:
                        slot.release()
                    self._tell(key, STOPPED, False)
                    continue
                self._books.clock.tell_all(older_than_seconds=_CLOCK_SECONDS)
                task = group.create_task(self._send_one(key, request, slot))
                # A task that is cancelled before its first step releases nothing itself.
                task.add_done_callback(partial(_release, slot))

    async def _send_one(self, key: str, request: Request, slot: "Slot") -> None:
        reply = await self._line.answer(key, request, self._endpoint, slot)
        outcome = reply.outcome
        if isinstance(outcome, Failure) and outcome.retryable:
            slot.release()
        else:
            committed = self._books.store.put(key, request, reply)
            # The next attempt is booked behind this write, so it is sent after it: a kill loses what is in flight.
            slot.release()
            # Shielded: an interrupt must not take back what is on its way into the store.
            reply = replace(reply, outcome=await asyncio.shield(asyncio.wrap_future(committed)))
        self._books.meter.count_reply(reply)
        self._tell(key, reply.outcome, False)


def _release(slot: "Slot", _: object) -> None:
    slot.release()
