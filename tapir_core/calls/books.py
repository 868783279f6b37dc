"""The books of one run in this process: an attempt is booked in the store before it is sent, and settled by its reply.

One that ends without a reply (a time-out, a broken connection, an interrupt, a kill) stays booked at the most that it
can cost. All of it belongs to the engine's event loop.
"""

import asyncio
import threading
from dataclasses import dataclass, replace

from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.budget import LOST_HOLD, Attempt, LiveSpend, make_attempt, settlement
from tapir_core.calls.types import MOST_USELESS, Endpoint, Failure, Request
from tapir_core.calls.wire import Reply
from tapir_core.config import BudgetConfig
from tapir_core.text import digest

STOPPED = Failure("stopped", "the run was told to stop before this was sent")
"""Of a request that was not sent."""
_LOOK_SECONDS = 0.05
"""How long after an attempt has ended, or the run was told to stop, who waits for room may look."""


@dataclass(eq=False)
class UnsentError(Exception):
    """Raised where an attempt is not sent: no room under a cap, or the run stops. Never leaves the engine."""

    failure: Failure


class Books:
    """What one engine answers from, pays from and counts in."""

    def __init__(self, store: AnswerStore, budget: BudgetConfig, run: str, stopping: threading.Event) -> None:
        """Book for the run with the id ``run``; once ``stopping`` is set nothing more may be sent."""
        self.store = store
        self.budget = budget
        self.run = run
        self.meter = LiveSpend()
        self.begun = 0
        """Attempts that are booked, or being booked, under caps from here. Those that no cap had room for are not."""
        self.ended = 0
        """Attempts of them that are settled, or followed no more: each may have left room."""
        self._stopping = stopping
        self._turn: tuple[list[Attempt], asyncio.Task[list[str]]] | None = None

    @property
    def may_make_room(self) -> bool:
        """Whether an attempt is open whose reply may cost less than what is booked for it."""
        return self.begun > self.ended

    async def book(self, key: str, request: Request, endpoint: Endpoint) -> Attempt:
        """An attempt at the request of ``key`` that may be sent; it waits for the room that open ones may leave.

        `end` has to follow, after `settle` where a reply says what it cost.

        Raises:
            UnsentError: a cap has no room for it, or the run was told to stop.
        """
        attempt = make_attempt(self.run, key, request, endpoint)
        while not self._stopping.is_set():
            # One may end while a refusal is on its way: its settlement may have queued behind the booking.
            ended = self.ended
            if refusal := await self._try(attempt):
                await self._wait_for_room(refusal, ended)
            elif self._stopping.is_set():
                self._give_back(attempt)
            else:
                self.meter.sent += 1
                return attempt
        raise UnsentError(STOPPED)

    def settle(self, attempt: Attempt, reply: Reply) -> None:
        """Write down what ``reply`` says that an attempt cost."""
        self.store.settle(settlement(attempt.id, reply))

    async def count_useless(self, key: str, reply: Reply, more: int = 1) -> Reply:
        """Count ``more`` of a useless ``reply`` to ``key``; a terminal one once another try would bring it again."""
        counted = self.store.count_useless(key, digest(reply.useless), more)
        if await asyncio.wrap_future(counted) < MOST_USELESS:
            return reply
        said = f"{reply.failure.message} (the same reply {MOST_USELESS} times)"
        return replace(reply, outcome=Failure("no_answer", said))

    def end(self, attempt: Attempt) -> None:
        """An attempt is over, with a reply or without."""
        self.ended += attempt.is_capped

    async def _try(self, attempt: Attempt) -> str:
        """Book an attempt, unless a cap has no room for it; gives which one, in words."""
        self.begun += attempt.is_capped
        wanted, booked = self._turn = self._turn or self._next_turn()
        wanted.append(attempt)
        place = len(wanted) - 1
        try:
            refusal = (await asyncio.shield(booked))[place]
        except BaseException:
            # Whoever was interrupted sends nothing, also where the booking is still on its way.
            booked.add_done_callback(lambda _: self._give_back(attempt))
            raise
        if refusal:
            self.begun -= attempt.is_capped
        return refusal

    def _next_turn(self) -> tuple[list[Attempt], "asyncio.Task[list[str]]"]:
        wanted: list[Attempt] = []
        return wanted, asyncio.get_running_loop().create_task(self._book_all(wanted))

    async def _book_all(self, wanted: list[Attempt]) -> list[str]:
        """What is wanted in one turn of the loop is booked at once, and wakes it once."""
        self._turn = None
        return await asyncio.wrap_future(self.store.book(wanted, self.budget))

    async def _wait_for_room(self, refusal: str, ended: int) -> None:
        """Until more than ``ended`` attempts have ended, or the run is told to stop.

        Raises:
            UnsentError: none is open that could.
        """
        while self.ended == ended and not self._stopping.is_set():
            if not self.may_make_room:
                raise UnsentError(Failure("connection" if refusal == LOST_HOLD else "budget", refusal))
            await asyncio.sleep(_LOOK_SECONDS)

    def _give_back(self, attempt: Attempt) -> None:
        """What was booked and is not sent costs nothing."""
        self.store.settle(settlement(attempt.id, None))
        self.end(attempt)
