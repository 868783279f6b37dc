"""Gives up an endpoint that is gone, with one clear error for all who wait for it. Belongs to one event loop.

It trips when nothing was answered for `dead_after_seconds` while every attempt failed without a reply, or when the
endpoint refuses everybody (a wrong key, a wrong address, no credit) before it has answered anyone. What happened stays
remembered: the next asker tries once more, and the first failure trips it again instead of another long wait.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tapir_core.calls.types import Endpoint, Failure, FailureKind
from tapir_core.calls.wire import Reply

__all__ = ["Breaker", "EndpointGivenUpError"]

SILENT: frozenset[FailureKind] = frozenset({"connection", "timeout"})
LEAST_FAILURES = 3
"""Attempts in a row that must have failed: one slow row alone gives no endpoint up."""
MOST_REFUSALS = 10
"""Refusals in a row after which an endpoint that did answer before counts as refusing everybody."""


class EndpointGivenUpError(Exception):
    """Raised in whoever waits for an endpoint when it is given up; never leaves the engine."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Breaker:
    """The state of one endpoint."""

    def __init__(self, where: str, *, dead_after_seconds: float) -> None:
        self.failure: Failure | None = None
        """What everybody gets while the endpoint is given up."""
        self._where = where
        self._dead_after_seconds = dead_after_seconds
        self._waiting: set[asyncio.Timeout] = set()
        self._answered = False
        self._silent_since: float | None = None
        self._silent_failures = 0
        self._refusals = 0
        self._last_reply = float("-inf")

    def rearm(self) -> None:
        """Let a new asker try."""
        self.failure = None

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

    def observe(self, reply: Reply, *, started: float, endpoint: Endpoint) -> None:
        """Learn from the reply to an attempt that began at ``started`` (the loop's clock)."""
        now = asyncio.get_running_loop().time()
        outcome = reply.outcome
        if isinstance(outcome, Failure) and reply.endpoint_at_fault:
            self._refusals += 1
            if not self._answered or self._refusals >= MOST_REFUSALS:
                self._trip(Failure(outcome.kind, self._refused_text(outcome, endpoint)))
        elif isinstance(outcome, Failure) and outcome.kind in SILENT and reply.raw is None:
            self._silent_failures += 1
            self._silent_since = self._silent_since or max(started, self._last_reply)
            silent_seconds = now - self._silent_since
            if silent_seconds >= self._dead_after_seconds and self._silent_failures >= LEAST_FAILURES:
                self._trip(Failure("connection", self._dead_text(outcome)))
        else:
            self._answered, self._silent_since, self._last_reply = True, None, now
            self._silent_failures = self._refusals = 0

    def _trip(self, failure: Failure) -> None:
        if self.failure is None:
            self.failure = failure
            now = asyncio.get_running_loop().time()
            for scope in self._waiting:
                scope.reschedule(now)
            self._waiting.clear()

    def _tripped_failure(self) -> Failure:
        assert self.failure is not None
        return self.failure

    def _refused_text(self, failure: Failure, endpoint: Endpoint) -> str:
        if failure.kind != "unauthorized":
            remedy = "Check base_url (up to and with /v1) and the model name"
        elif endpoint.api_key_env:
            remedy = f"Set the environment variable {endpoint.api_key_env} to a key that is valid there"
        else:
            remedy = "Name the environment variable of a valid key in api_key_env"
        return f"{self._where} refuses every request ({failure.message}). {remedy}; then the same command goes on."

    def _dead_text(self, failure: Failure) -> str:
        return (
            f"{self._where} has answered nothing for {self._dead_after_seconds:g} s (last: {failure.message}). "
            "Check that the server runs and is reached from here; then the same command goes on."
        )
