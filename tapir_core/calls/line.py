"""The way to one address: limiter, breaker and client together answer a request with retries.

One event loop owns a line; every ask that goes to the same base URL shares it. Importing this module imports the SDK.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

from tapir_core.calls.breaker import Breaker, EndpointGivenUpError
from tapir_core.calls.client import Client
from tapir_core.calls.limiter import Limiter, Slot
from tapir_core.calls.retry import RetryPolicy, pause_before_retry
from tapir_core.calls.types import Answer, Endpoint, Failure, Request
from tapir_core.calls.wire import Reply
from tapir_core.config import CallsConfig

__all__ = ["Line"]


class Line:
    """Limiter, breaker and connections of one base URL."""

    def __init__(
        self, endpoint: Endpoint, config: CallsConfig, *, rng: random.Random, on_send: Callable[[], None]
    ) -> None:
        self.limiter = Limiter(endpoint.concurrency)
        self.breaker = Breaker(endpoint.base_url, dead_after_seconds=config.dead_after_seconds)
        self._policy = RetryPolicy.of(config)
        self._timeout_seconds = config.timeout_seconds
        self._rng = rng
        self._on_send = on_send
        self._clients: dict[Endpoint, Client] = {}

    async def answer(self, request: Request, endpoint: Endpoint, slot: Slot) -> Reply:
        """The reply to ``request`` after as many attempts as its failures allow; ``slot`` is for the first."""
        attempt = 0
        try:
            async with self.breaker.guard():
                while True:
                    attempt += 1
                    reply = await self._attempt(request, endpoint, slot)
                    pause = self._pause_after(reply, attempt)
                    if pause is None:
                        return _with_attempts(reply, attempt)
                    await asyncio.sleep(pause)
                    slot = await self.limiter.acquire()
        except EndpointGivenUpError as given_up:
            return Reply(replace(given_up.failure, attempts=attempt))

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            await client.close()

    async def _attempt(self, request: Request, endpoint: Endpoint, slot: Slot) -> Reply:
        with slot:
            started = asyncio.get_running_loop().time()
            self._on_send()
            reply = await self._client(endpoint).send(request)
        self.breaker.observe(reply, started=started, endpoint=endpoint)
        if self.breaker.failure is not None and isinstance(reply.outcome, Failure) and reply.outcome.retryable:
            return Reply(self.breaker.failure)
        return reply

    def _pause_after(self, reply: Reply, attempt: int) -> float | None:
        if isinstance(reply.outcome, Answer) or reply.endpoint_at_fault or self.breaker.failure is not None:
            return None
        return pause_before_retry(
            self._policy,
            kind=reply.outcome.kind,
            attempt=attempt,
            retry_after_seconds=reply.retry_after_seconds,
            rng=self._rng,
        )

    def _client(self, endpoint: Endpoint) -> Client:
        if endpoint not in self._clients:
            self._clients[endpoint] = Client(endpoint, timeout_seconds=self._timeout_seconds)
        return self._clients[endpoint]


def _with_attempts(reply: Reply, attempts: int) -> Reply:
    if isinstance(reply.outcome, Failure):
        return replace(reply, attempts=attempts, outcome=replace(reply.outcome, attempts=attempts))
    return replace(reply, attempts=attempts)
