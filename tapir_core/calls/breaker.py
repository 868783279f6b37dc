"""Gives up an endpoint that is gone, with one clear error for all who wait for it. Belongs to one event loop.

`Health` judges one address by its replies, `Breaker` ends the waiting. What happened stays remembered: the next asker
tries once more, and the first failure gives the address up again instead of another long wait.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tapir_core.calls.types import Endpoint, Failure, FailureKind
from tapir_core.calls.wire import Reply

__all__ = ["Breaker", "EndpointGivenUpError", "Health"]

SILENT: frozenset[FailureKind] = frozenset({"connection", "timeout"})
LEAST_FAILURES = 3
"""Attempts in a row that must have failed: one slow row alone gives no endpoint up."""
MOST_REFUSALS = 10
"""Refusals in a row after which an endpoint that did answer before counts as refusing everybody."""
FAILING_STREAK = 5
"""Failures in a row after which an address is failing: another one should be asked, if there is one."""


class EndpointGivenUpError(Exception):
    """Raised in whoever waits for an endpoint when it is given up; never leaves the engine."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Health:
    """What the replies of one address say about it.

    It is gone when nothing was answered for `dead_after_seconds` while every attempt failed without a reply, or when it
    refuses everybody (a wrong key, a wrong address, no credit) before it has answered anyone.
    """

    def __init__(self, where: str, *, dead_after_seconds: float) -> None:
        self.failing: str | None = None
        """Why another address should be asked, if there is one."""
        self._where = where
        self._dead_after_seconds = dead_after_seconds
        self.answered = False
        """Whether it has ever answered anybody."""
        self._silent_since: float | None = None
        self._silent_failures = 0
        self._refusals = 0
        self._streak = 0
        self._last_reply = float("-inf")

    def observe(self, reply: Reply, *, began: float, now: float, endpoint: Endpoint) -> Failure | None:
        """Learn from the reply to an attempt; gives the reason once there is one to give the address up."""
        outcome = reply.outcome
        if isinstance(outcome, Failure) and reply.endpoint_at_fault:
            return self._count_refusal(outcome, endpoint)
        if isinstance(outcome, Failure) and outcome.kind in SILENT | {"server"}:
            self._streak += 1
            if self._streak >= FAILING_STREAK:
                self.failing = f"{self._where} failed {self._streak} times in a row (last: {outcome.message})"
            if outcome.kind in SILENT and reply.raw is None:
                return self._count_silence(outcome, began, now)
        else:
            self.failing, self._streak = None, 0
        self.answered, self._silent_since, self._last_reply = True, None, now
        self._silent_failures = self._refusals = 0
        return None

    def _count_refusal(self, failure: Failure, endpoint: Endpoint) -> Failure | None:
        self._refusals += 1
        if self.answered and self._refusals < MOST_REFUSALS:
            return None
        self.failing = self._refused_text(failure, endpoint)
        return Failure(failure.kind, self.failing)

    def _count_silence(self, failure: Failure, began: float, now: float) -> Failure | None:
        self._silent_failures += 1
        if self._silent_since is None:
            self._silent_since = max(began, self._last_reply)
        if now - self._silent_since < self._dead_after_seconds or self._silent_failures < LEAST_FAILURES:
            return None
        return Failure("connection", self._dead_text(failure))

    def _refused_text(self, failure: Failure, endpoint: Endpoint) -> str:
        if failure.kind != "unauthorized":
            remedy = "Check base_url (up to and with /v1) and the model name"
        else:
            remedy = endpoint.key_remedy
        return f"{self._where} refuses every request ({failure.message}). {remedy}; then the same command goes on."

    def _dead_text(self, failure: Failure) -> str:
        return (
            f"{self._where} has answered nothing for {self._dead_after_seconds:g} s (last: {failure.message}). "
            "Check that the server runs and is reached from here; then the same command goes on."
        )


class Breaker:
    """Ends the waiting for an endpoint that is given up."""

    def __init__(self) -> None:
        self.failure: Failure | None = None
        """What everybody gets while the endpoint is given up."""
        self.refuses = False
        """Whether it was given up because it refuses everybody and always has: what was in flight cost nothing."""
        self._waiting: set[asyncio.Timeout] = set()

    def rearm(self) -> None:
        """Let a new asker try."""
        self.failure = None

    def trip(self, failure: Failure, *, refuses: bool = False) -> None:
        """Give the endpoint up; everybody who works on it ends with ``failure`` at once."""
        if self.failure is None:
            self.failure, self.refuses = failure, refuses
            now = asyncio.get_running_loop().time()
            for scope in self._waiting:
                scope.reschedule(now)
            self._waiting.clear()

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Work on this endpoint; ends with `EndpointGivenUpError` at once when the breaker trips."""
        if self.failure is not None:
            raise EndpointGivenUpError(self.failure)
        try:
            async with asyncio.timeout(None) as scope:
                self._waiting.add(scope)
                try:
                    yield
                finally:
                    self._waiting.discard(scope)
        except TimeoutError:
            # mypy narrows `failure` by the check above, but it changes while the body waits.
            raise EndpointGivenUpError(self._tripped_failure()) from None

    def _tripped_failure(self) -> Failure:
        assert self.failure is not None
        return self.failure
