"""Every attempt of one engine, booked in the store before it is sent and settled by its reply.

Belongs to the engine's event loop. An attempt that ends without a reply (a time-out, a broken connection, an interrupt,
a kill) stays booked at the most that it can cost.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from tapir_core.calls.budget import reserve
from tapir_core.calls.endpoints.wire import Reply
from tapir_core.calls.spend import Spend, SpendMeter
from tapir_core.calls.store.answer_store import AnswerStore
from tapir_core.calls.types import Endpoint, Failure, Request
from tapir_core.config.budget import BudgetConfig

if TYPE_CHECKING:
    from tapir_core.calls.store.attempt_rows import Attempt, Settlement

Wanted = tuple["Attempt", "asyncio.Future[str]"]

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
        self._wanted: list[Wanted] = []
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
    async def booked(self, key: str, request: Request, endpoint: Endpoint) -> AsyncIterator["Booked"]:
        """An attempt at the request of ``key`` that may be sent; it waits for the room that open ones may leave.

        Raises:
            OverBudgetError: a cap has no room for it.
        """
        attempt = make_attempt(self.run, key, request, endpoint)
        while refusal := await self._try(attempt):
            if not self.may_make_room:
                raise OverBudgetError(refusal)
            await self._changed.wait()
        try:
            self._meter.count_sent()
            yield Booked(self._store, attempt)
        finally:
            self.closed()

    async def _try(self, attempt: "Attempt") -> str:
        """Book an attempt, together with all that want to in this turn of the loop: one wake-up of it for all."""
        loop = asyncio.get_running_loop()
        if not self._wanted:
            loop.call_soon(self._book_wanted, loop)
        answer: asyncio.Future[str] = loop.create_future()
        self._wanted.append((attempt, answer))
        self._open += 1
        try:
            refusal = await answer
        except BaseException:
            self.closed()
            raise
        if refusal:
            self.closed()
        return refusal

    def _book_wanted(self, loop: asyncio.AbstractEventLoop) -> None:
        wanted, self._wanted = self._wanted, []
        booking = self._store.book([attempt for attempt, _ in wanted], self.budget)

        def pass_on(done: Future[list[str]]) -> None:
            # A loop that has ended has nobody left who waits; what was booked last stays booked then.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._answer, wanted, done)

        booking.add_done_callback(pass_on)

    def _answer(self, wanted: "list[Wanted]", booking: Future[list[str]]) -> None:
        error = booking.exception()
        refusals = [""] * len(wanted) if error else booking.result()
        for (attempt, answer), refusal in zip(wanted, refusals, strict=True):
            if not answer.done():
                answer.set_exception(error) if error else answer.set_result(refusal)
            elif not error and not refusal:
                # Its asker was interrupted meanwhile.
                self._store.settle(settlement(attempt.id, None))


class Booked:
    """An attempt that is written down."""

    def __init__(self, store: AnswerStore, attempt: "Attempt") -> None:
        self._store = store
        self._attempt = attempt

    def settle(self, reply: Reply) -> None:
        """Write down what ``reply`` says that it cost."""
        self._store.settle(settlement(self._attempt.id, reply))


def make_attempt(run: str, key: str, request: Request, endpoint: Endpoint) -> "Attempt":
    """An attempt at ``request``, which has the key ``key``, by the run with the id ``run``."""
    from tapir_core.calls.store.attempt_rows import Attempt

    return Attempt(secrets.randbits(63), run, request.role, key, reserve(request, endpoint))


def settlement(attempt: int, reply: Reply | None) -> "Settlement":
    """What ``reply`` settles an attempt at; None says that it was never sent."""
    from tapir_core.calls.store.attempt_rows import Settlement

    if reply is None or not reply.attempts:
        return Settlement(attempt, "", Spend())
    outcome = reply.outcome.kind if isinstance(reply.outcome, Failure) else "answer"
    known = Spend(1, reply.prompt_tokens, reply.completion_tokens, reply.usd)
    return Settlement(attempt, outcome, None if reply.cost_unknown else known)
