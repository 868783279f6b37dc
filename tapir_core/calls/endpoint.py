"""The way to one endpoint: limits, breaker and clients together answer a request with retries.

One event loop owns it; every ask that goes to the same addresses shares it. Importing this module imports aiohttp.
"""

import asyncio
import random
from collections import Counter
from dataclasses import replace

from tapir_core.calls.addresses import Address, Breaker, EndpointGivenUpError, Pool
from tapir_core.calls.attempts import Attempts, Settle, UnsentError
from tapir_core.calls.budget import reserve
from tapir_core.calls.client import Client
from tapir_core.calls.limits import LONGEST_HONOURED_SECONDS, Slot, pause_before_retry
from tapir_core.calls.spend import Spend
from tapir_core.calls.types import Answer, Endpoint, Failure, FailureKind, Request
from tapir_core.calls.wire import Reply
from tapir_core.config import CallsConfig


class Line:
    """Limits, breaker and connections of one endpoint, over all its addresses."""

    def __init__(self, endpoint: Endpoint, config: CallsConfig, *, rng: random.Random, attempts: Attempts) -> None:
        self.breaker = Breaker()
        self._pool = Pool(endpoint, config, self.breaker)
        self.limiter = self._pool.limiter
        self._config = config
        self._rng = rng
        self._attempts = attempts

    def admit(self, endpoint: Endpoint) -> None:
        """Be ready for a new asker, who tries once more what was given up."""
        self.breaker.rearm()
        self._pool.admit(endpoint)

    async def answer(self, key: str, request: Request, endpoint: Endpoint, slot: Slot) -> Reply:
        """The reply to ``request``, which has the key ``key``, after as many attempts as its failures allow.

        ``slot`` is given back while a next attempt is waited for, and held with the reply: the caller releases it.
        """
        attempts, failed, before = 0, Counter[FailureKind](), Spend()
        try:
            async with self.breaker.guard():
                while True:
                    attempts, address = attempts + 1, self._pool.at(slot.at)
                    reply = await self._attempt(key, request, endpoint, address)
                    if not isinstance(reply.outcome, Failure):
                        return _of_all(reply, attempts, before)
                    failed[reply.outcome.kind] += 1
                    pause = self._pause_after(reply, reply.outcome.kind, failed, address)
                    if pause is None:
                        return _with_attempts(_of_all(reply, attempts, before), reply.outcome, attempts)
                    before += Spend(0, reply.prompt_tokens, reply.completion_tokens, reply.usd)
                    slot.release()
                    await asyncio.sleep(pause)
                    await slot.take_again()
        except UnsentError as unsent:
            return _with_attempts(_of_all(Reply(unsent.failure), attempts - 1, before), unsent.failure, attempts - 1)
        except EndpointGivenUpError as given_up:
            return _with_attempts(_of_all(Reply(given_up.failure), attempts, before), given_up.failure, attempts)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    async def _attempt(self, key: str, request: Request, endpoint: Endpoint, address: Address) -> Reply:
        loop, rates = asyncio.get_running_loop(), address.rates(endpoint, request.model)
        permit = await rates.acquire(reserve(request, endpoint).tokens)
        try:
            # After the wait for its turn: a kill leaves booked what is in flight, and not what waits.
            async with self._attempts.booked(key, request, endpoint) as settle:
                began = loop.time()
                reply = await self._send(request, address.client(endpoint), settle)
        except UnsentError:
            rates.settle(permit, used_tokens=0, limits=(), now=loop.time())
            raise
        rates.settle(permit, used_tokens=_used_tokens(reply, permit.tokens), limits=reply.rate_limits, now=loop.time())
        pause = reply.retry_after_seconds
        if reply.shows_spent_account and pause is not None and pause <= LONGEST_HONOURED_SECONDS:
            rates.pause_until(loop.time() + pause)
        self._pool.observe(address, reply, began=began, endpoint=endpoint)
        if self.breaker.failure is not None and isinstance(reply.outcome, Failure) and reply.outcome.retryable:
            return Reply(self.breaker.failure)
        return reply

    async def _send(self, request: Request, client: Client, settle: Settle) -> Reply:
        try:
            reply = await client.send(request)
        except asyncio.CancelledError:
            if self.breaker.failure is not None and self.breaker.refuses:
                settle(Reply(self.breaker.failure))
            raise
        settle(reply)
        return reply

    def _pause_after(
        self, reply: Reply, kind: FailureKind, failed: Counter[FailureKind], address: Address
    ) -> float | None:
        if self.breaker.failure is not None:
            return None
        if reply.endpoint_at_fault:
            # An address that is out has others beside it, which may take what it refuses.
            return 0.0 if address.out_seconds and failed.total() < self._config.max_attempts else None
        return pause_before_retry(
            self._config, kind=kind, failed=failed, retry_after_seconds=reply.retry_after_seconds, rng=self._rng
        )


def _used_tokens(reply: Reply, reserved: int) -> int:
    """Tokens that a reply took; what was reserved where a server that answers does not say."""
    used = reply.prompt_tokens + reply.completion_tokens
    return reserved if isinstance(reply.outcome, Answer) and not used else used


def _of_all(reply: Reply, attempts: int, before: Spend) -> Reply:
    """The last reply, with what all attempts took: a provider charges replies that cannot be used, too."""
    return replace(
        reply,
        attempts=attempts,
        prompt_tokens=before.prompt_tokens + reply.prompt_tokens,
        completion_tokens=before.completion_tokens + reply.completion_tokens,
        usd=before.usd + reply.usd,
    )


def _with_attempts(reply: Reply, failure: Failure, attempts: int) -> Reply:
    return replace(reply, attempts=attempts, outcome=replace(failure, attempts=attempts))
