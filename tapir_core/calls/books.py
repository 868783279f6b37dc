"""The bookings of one run in this process: each attempt is booked before it is sent, and settled by its reply.

An attempt that ends without a reply (a time-out, a broken connection, an interrupt, a kill) stays booked at the most
that it can cost. Everything here belongs to the engine's event loop.
"""

import asyncio
import threading
from collections.abc import Collection
from dataclasses import dataclass, replace

from tapir_core.calls import types, wire
from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.budget import LOST_HOLD, Attempt, LiveSpend, make_attempt, settlement
from tapir_core.config import BudgetConfig
from tapir_core.text import digest

STOPPED = types.Failure("stopped", "the run was stopped before this call was sent")
"""The outcome of a request that was not sent."""
_LOOK_SECONDS = 0.05
"""How often a request that waits for room under a cap checks whether an attempt has ended."""


@dataclass(eq=False)
class UnsentError(Exception):
    """Raised if an attempt is not sent: no room under a cap, or the run stops. Never leaves the engine."""

    failure: types.Failure


class Books:
    """One engine's store, budget and live counters."""

    def __init__(self, store: AnswerStore, budget: BudgetConfig, run: str, stopping: threading.Event) -> None:
        """Book for the run with the id ``run``; once ``stopping`` is set nothing more may be sent."""
        self.store = store
        self.budget = budget
        self.run = run
        self.meter = LiveSpend()
        self.begun = 0
        """Attempts under caps that are booked or being booked here, without those that were refused."""
        self.ended = 0
        """Those of them that have ended: each may have left room."""
        self._stopping = stopping
        self._turn: tuple[list[Attempt], asyncio.Task[list[str]]] | None = None

    @property
    def may_make_room(self) -> bool:
        """Whether an open attempt may cost less than is booked for it."""
        return self.begun > self.ended

    async def book(self, key: str, request: types.Request, endpoint: types.Endpoint) -> Attempt:
        """Book an attempt at the request of ``key``; waits for the room that open attempts may leave.

        The caller must call `end` afterwards, and before that `settle` if a reply says what the attempt cost.

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

    def settle(self, attempt: Attempt, reply: wire.Reply) -> None:
        """Record what an attempt cost, by its ``reply``."""
        self.store.settle(settlement(attempt.id, reply))

    async def count_useless(self, key: str, reply: wire.Reply, more: int = 1) -> wire.Reply:
        """Count ``more`` useless replies to ``key``; returns ``reply``, made terminal once there are too many."""
        counted = self.store.count_useless(key, digest(reply.useless), more)
        if await asyncio.wrap_future(counted) < types.MOST_USELESS:
            return reply
        said = f"{reply.failure.message} (the same reply {types.MOST_USELESS} times)"
        return replace(reply, outcome=types.Failure("no_answer", said))

    def forgive(self, useless: Collection[str]) -> None:
        """Forget the counts of such replies, of whichever request: a server that gives them answers after them."""
        self.store.forgive([*map(digest, useless)])

    def end(self, attempt: Attempt) -> None:
        """Note that an attempt is over, with a reply or without."""
        self.ended += attempt.is_capped

    async def _try(self, attempt: Attempt) -> str:
        """Book an attempt; returns which cap has no room for it, or an empty text."""
        self.begun += attempt.is_capped
        wanted, booked = self._turn = self._turn or self._next_turn()
        wanted.append(attempt)
        place = len(wanted) - 1
        try:
            refusal = (await asyncio.shield(booked))[place]
        except BaseException:
            # An interrupted request is not sent, even if its booking is still on its way.
            booked.add_done_callback(lambda _: self._give_back(attempt))
            raise
        if refusal:
            self.begun -= attempt.is_capped
        return refusal

    def _next_turn(self) -> tuple[list[Attempt], "asyncio.Task[list[str]]"]:
        wanted: list[Attempt] = []
        return wanted, asyncio.get_running_loop().create_task(self._book_all(wanted))

    async def _book_all(self, wanted: list[Attempt]) -> list[str]:
        """Book all attempts of one turn of the loop in one write."""
        self._turn = None
        return await asyncio.wrap_future(self.store.book(wanted, self.budget))

    async def _wait_for_room(self, refusal: str, ended: int) -> None:
        """Wait until more than ``ended`` attempts have ended, or the run is told to stop.

        Raises:
            UnsentError: no attempt is open that could leave room.
        """
        while self.ended == ended and not self._stopping.is_set():
            if not self.may_make_room:
                raise UnsentError(types.Failure("connection" if refusal == LOST_HOLD else "budget", refusal))
            await asyncio.sleep(_LOOK_SECONDS)

    def _give_back(self, attempt: Attempt) -> None:
        """Cancel a booking: what is not sent costs nothing."""
        self.store.settle(settlement(attempt.id, None))
        self.end(attempt)
