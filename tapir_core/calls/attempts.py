"""Every attempt of one engine, booked in the store before it is sent and settled by its reply.

Belongs to the engine's event loop. An attempt that ends without a reply (a time-out, a broken connection, an interrupt,
a kill) stays booked at the most that it can cost.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tapir_core.calls.budget import reserve
from tapir_core.calls.endpoints.wire import Reply
from tapir_core.calls.spend import Spend, SpendMeter
from tapir_core.calls.store.answer_store import AnswerStore
from tapir_core.calls.types import Endpoint, Failure, Request
from tapir_core.config.budget import BudgetConfig

if TYPE_CHECKING:
    from tapir_core.calls.store.attempt_rows import Attempt, Settlement

__all__ = ["Attempts", "Booked", "OverBudgetError", "make_attempt", "settlement"]


class OverBudgetError(Exception):
    """Raised where an attempt has no room under a cap, nor will have; never leaves the engine."""


class Attempts:
    """Books the attempts of one run in this process."""

    def __init__(self, store: AnswerStore, budget: BudgetConfig, run: str, meter: SpendMeter) -> None:
        self.run = run
        self.budget = budget
        self._store = store
        self._meter = meter
        self._open = 0
        """Attempts that are booked or being booked, and may still give back some of what they reserved."""
        self._changed = asyncio.Event()

    @property
    def may_make_room(self) -> bool:
        """Whether an attempt of this process is still open: its reply may cost less than what is reserved for it."""
        return self._open > 0

    def opened(self, count: int) -> None:
        """So many attempts of a batch are at its provider and followed from here."""
        self._open += count

    def closed(self, count: int = 1) -> None:
        """So many attempts are settled, or followed no more: who waits for room looks again."""
        self._open -= count
        self._changed.set()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def booked(self, request: Request, endpoint: Endpoint) -> AsyncIterator["Booked"]:
        """An attempt that may be sent. While others are open it waits for the room that they may leave.

        Raises:
            OverBudgetError: a cap has no room for it.
        """
        while refusal := await self._try(attempt := make_attempt(self.run, request, endpoint)):
            if not self.may_make_room:
                raise OverBudgetError(refusal)
            await self._changed.wait()
        try:
            self._meter.count_sent()
            yield Booked(self._store, attempt)
        finally:
            self.closed()

    async def _try(self, attempt: "Attempt") -> str:
        self._open += 1
        booking = self._store.book(attempt, self.budget)

        def never_sent(done: Future[str]) -> None:
            if done.exception() is None and not done.result():
                self._store.settle(settlement(attempt.id, None))

        try:
            refusal = await asyncio.shield(asyncio.wrap_future(booking))
        except BaseException:
            # An interrupt cannot take back what is on its way into the store.
            booking.add_done_callback(never_sent)
            self.closed()
            raise
        if refusal:
            self.closed()
        return refusal


class Booked:
    """An attempt that is written down."""

    def __init__(self, store: AnswerStore, attempt: "Attempt") -> None:
        self._store = store
        self._attempt = attempt

    def settle(self, reply: Reply) -> None:
        """Write down what ``reply`` says that it cost."""
        self._store.settle(settlement(self._attempt.id, reply))


def make_attempt(run: str, request: Request, endpoint: Endpoint, *, key: str = "") -> "Attempt":
    """An attempt at ``request`` by the run with the id ``run``; ``key`` saves the time of computing it."""
    from tapir_core.calls.store.attempt_rows import Attempt

    return Attempt(secrets.randbits(63), run, request.role, key or request.key, reserve(request, endpoint))


def settlement(attempt: int, reply: Reply | None) -> "Settlement":
    """What ``reply`` settles an attempt at; None says that it was never sent."""
    from tapir_core.calls.store.attempt_rows import Settlement

    if reply is None or not reply.attempts:
        return Settlement(attempt, "", Spend())
    outcome = reply.outcome.kind if isinstance(reply.outcome, Failure) else "answer"
    known = Spend(1, reply.prompt_tokens, reply.completion_tokens, reply.usd)
    return Settlement(attempt, outcome, None if reply.cost_unknown else known)
