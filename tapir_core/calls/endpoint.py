"""The way to one endpoint: its addresses, limits, breaker and clients together answer a request with retries.

Load is balanced over the addresses. One is out of service after five failures in a row or when it refuses everybody, as
long as another one is in service: the last one stays until it is gone for good (`Health`), and then the whole endpoint
is given up, with one clear error for all who wait for it (`Breaker`). What happened stays remembered: the next asker
tries once more, and the first failure gives the endpoint up again instead of another long wait.

Addresses may come and go (`Endpoint.live`): one that comes is balanced over at once, one that left is forgotten, and
what was in flight there breaks and is tried at another. While none is in service calls wait, without spending attempts,
until one comes or they are given up. One event loop owns it all. Importing this module imports aiohttp.
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tapir_core.calls.budget import Spend, reserve
from tapir_core.calls.client import Client
from tapir_core.calls.limits import LONGEST_HONOURED_SECONDS, AddressLimit, Limiter, Rates, Slot, pause_before_retry
from tapir_core.calls.sending import Books, UnsentError
from tapir_core.calls.types import (
    Answer,
    Endpoint,
    Failure,
    FailureKind,
    LiveAddress,
    Request,
    unsupported_remedy,
)
from tapir_core.calls.wire import Reply
from tapir_core.config import CallsConfig

_SILENT: frozenset[FailureKind] = frozenset({"connection", "timeout"})
_LEAST_FAILURES = 3
"""Attempts in a row that must have failed: one slow row alone gives no endpoint up."""
_MOST_REFUSALS = 10
"""Refusals in a row after which an endpoint that did answer before counts as refusing everybody."""
_FAILING_STREAK = 5
"""Failures in a row after which an address is failing: another one should be asked, if there is one."""
FIRST_OUT_SECONDS = 1.0
_LONGEST_OUT_SECONDS = 60.0
"""Time until an address that is out is probed with one call; it doubles from the first to the longest."""


@dataclass(eq=False)
class EndpointGivenUpError(Exception):
    """Raised in whoever waits for an endpoint when it is given up; never leaves the engine."""

    failure: Failure


class Breaker:
    """Ends the waiting for an endpoint that is given up: `with breaker:` is work on it."""

    def __init__(self) -> None:
        self.failure: Failure | None = None
        """What everybody gets while the endpoint is given up."""
        self.refuses = False
        """Whether it was given up because it refuses everybody and always has: what was in flight cost nothing."""
        self._working: set[asyncio.Task[Any]] = set()
        self._ended: dict[asyncio.Task[Any], Failure] = {}

    def rearm(self) -> None:
        """Let a new asker try."""
        self.failure = None

    def trip(self, failure: Failure, *, refuses: bool = False) -> None:
        """Give the endpoint up; everybody else who works on it ends with ``failure`` at once."""
        if self.failure is None:
            self.failure, self.refuses = failure, refuses
            # All but the one that found out are waiting for something, and are woken by it.
            for task in self._working - {asyncio.current_task()}:
                self._ended[task] = failure
                task.cancel()

    def __enter__(self) -> None:
        if self.failure is not None:
            raise EndpointGivenUpError(self.failure)
        self._working.add(_this_task())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        task = _this_task()
        self._working.discard(task)
        failure = self._ended.pop(task, None)
        # Interrupted by its asker as well, it ends as interrupted.
        if failure is not None and not task.uncancel():
            raise EndpointGivenUpError(failure) from None


class Health:
    """What the replies of one address say about it.

    It is gone when nothing was answered for `dead_after_seconds` while every attempt failed without a reply, or when it
    refuses everybody (a wrong key, a wrong address, no credit) before it has answered anyone.
    """

    def __init__(self, where: str, *, dead_after_seconds: float) -> None:
        self.failing: str | None = None
        """Why another address should be asked, if there is one."""
        self.answered = False
        """Whether it has ever answered anybody."""
        self._where = where
        self._dead_after_seconds = dead_after_seconds
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
        if isinstance(outcome, Failure) and outcome.kind in _SILENT | {"server"}:
            self._streak += 1
            if self._streak >= _FAILING_STREAK:
                self.failing = f"{self._where} failed {self._streak} times in a row (last: {outcome.message})"
            if outcome.kind in _SILENT and reply.raw is None:
                return self._count_silence(outcome, began, now)
        else:
            self.failing, self._streak = None, 0
        self.answered, self._silent_since, self._last_reply = True, None, now
        self._silent_failures = self._refusals = 0
        return None

    def _count_refusal(self, failure: Failure, endpoint: Endpoint) -> Failure | None:
        self._refusals += 1
        if self.answered and self._refusals < _MOST_REFUSALS:
            return None
        remedy = "Check base_url (up to and with /v1) and the model name"
        if failure.kind == "unauthorized":
            remedy = endpoint.key_remedy
        elif failure.kind == "unsupported":
            remedy = unsupported_remedy(failure.parameter)
        self.failing = (
            f"{self._where} refuses every request ({failure.message}). {remedy}; then the same command goes on."
        )
        return replace(failure, message=self.failing, said=failure.message)

    def _count_silence(self, failure: Failure, began: float, now: float) -> Failure | None:
        self._silent_failures += 1
        if self._silent_since is None:
            self._silent_since = max(began, self._last_reply)
        if now - self._silent_since < self._dead_after_seconds or self._silent_failures < _LEAST_FAILURES:
            return None
        said = f"{self._where} has answered nothing for {self._dead_after_seconds:g} s (last: {failure.message})"
        return Failure(
            "connection", f"{said}. Check that the server runs and is reached from here; then the same command goes on."
        )


class Address:
    """One base URL: its limits, health and connections."""

    def __init__(
        self, base_url: str, ceiling: int, config: CallsConfig, *, wake: Callable[[], None], **own: Any
    ) -> None:
        """Nothing is opened yet; ``own`` are the fields in which this address differs from its endpoint."""
        self.limit = AddressLimit(ceiling)
        self.health = Health(base_url, dead_after_seconds=config.dead_after_seconds)
        self.out_seconds = 0.0
        """How long it stays out of service until the next probe; 0 while it is in service."""
        self._own = {"base_url": base_url, "more_base_urls": (), **own}
        self._timeout_seconds = config.timeout_seconds
        self._wake = wake
        self._probe: asyncio.TimerHandle | None = None
        self._clients: dict[Endpoint, Client] = {}
        self._rates: dict[tuple[Endpoint, str], Rates] = {}

    def client(self, endpoint: Endpoint) -> Client:
        """The connections with the key of ``endpoint``."""
        if endpoint not in self._clients:
            self._clients[endpoint] = Client(replace(endpoint, **self._own), timeout_seconds=self._timeout_seconds)
        return self._clients[endpoint]

    def rates(self, endpoint: Endpoint, model: str) -> Rates:
        """The limits per minute of ``model`` with the key of ``endpoint``."""
        if (endpoint, model) not in self._rates:
            self._rates[endpoint, model] = Rates(
                requests_per_minute=endpoint.requests_per_minute,
                tokens_per_minute=endpoint.tokens_per_minute,
                now=asyncio.get_running_loop().time(),
            )
        return self._rates[endpoint, model]

    def take_out(self) -> None:
        """Send nothing here until a probe, later each time."""
        self.out_seconds = min(_LONGEST_OUT_SECONDS, 2 * self.out_seconds or FIRST_OUT_SECONDS)
        self.limit.limit = 0
        self._cancel_probe()
        self._probe = asyncio.get_running_loop().call_later(self.out_seconds, self._let_one_through)

    def bring_back(self) -> None:
        """Take the address into service."""
        self.out_seconds = 0.0
        self._cancel_probe()
        self.limit.apply()
        self._wake()

    async def close(self) -> None:
        """Close every connection; what is in flight breaks, and a later call opens anew."""
        self._cancel_probe()
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    def _let_one_through(self) -> None:
        self.limit.limit = 1
        self._wake()

    def _cancel_probe(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None


class Pool:
    """Which addresses of an endpoint are there and in service."""

    def __init__(self, endpoint: Endpoint, config: CallsConfig, breaker: Breaker) -> None:
        self.limiter = Limiter()
        self._breaker = breaker
        self._config = config
        self._addresses: list[Address] = []
        self._by_limit: dict[AddressLimit, Address] = {}
        self._live = endpoint.live
        self._there: dict[LiveAddress, Address] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        # Open only while all live ones are given up: who gets a slot here is told so instead of waiting for ever.
        self._nowhere = AddressLimit(ceiling=0)
        self._nowhere.limit = 0
        self._loop = asyncio.get_running_loop()
        if self._live is None:
            for url in dict.fromkeys(endpoint.base_urls):
                self._add(url, endpoint.concurrency)
        else:
            self.limiter.add(self._nowhere)
            self._live.follow(self._notice)
            self._follow()

    def admit(self, endpoint: Endpoint) -> None:
        """A new asker comes, who may allow less in flight; a live address keeps its own concurrency."""
        if self._live is None:
            self.limiter.lower_to(endpoint.concurrency)
        else:
            self._nowhere.limit = 0
            self._follow()

    def at(self, limit: AddressLimit) -> Address:
        """The address that ``limit`` belongs to."""
        return self._by_limit[limit]

    def observe(self, address: Address, reply: Reply, *, began: float, endpoint: Endpoint) -> None:
        """Learn from a reply: how much the address takes, and whether it stays in service."""
        if address not in self._addresses:
            return  # it has left
        now = self._loop.time()
        given_up = address.health.observe(reply, began=began, now=now, endpoint=endpoint)
        if address.out_seconds:
            if given_up is None and address.health.failing is None:
                address.bring_back()
            elif address.limit.limit:
                address.take_out()
        elif (given_up or address.health.failing) and (self._live is not None or self._another_than(address)):
            address.take_out()
        else:
            _adapt(address.limit, reply, began=began, now=now)
        if given_up is not None and not self._another_than(address):
            # Of one that answered before, credit may have run out or a model gone: what is in flight may be charged.
            ever_answered = any(each.health.answered for each in self._addresses)
            self._give_up(self._whole_failure(address, given_up), refuses=reply.endpoint_at_fault and not ever_answered)

    async def close(self) -> None:
        """Close every connection."""
        if self._live is not None:
            self._live.unfollow(self._notice)
        await asyncio.gather(*self._leaving, *(address.close() for address in self._by_limit.values()))

    def _add(self, url: str, ceiling: int, **own: Any) -> Address:
        address = Address(url, ceiling, self._config, wake=self.limiter.wake, **own)
        self._addresses.append(address)
        self._by_limit[address.limit] = address
        self.limiter.add(address.limit)
        return address

    def _give_up(self, failure: Failure, *, refuses: bool = False) -> None:
        self._breaker.trip(failure, refuses=refuses)
        if self._live is not None:
            self._nowhere.limit = sys.maxsize
            self.limiter.wake()

    def _another_than(self, address: Address) -> bool:
        return any(other is not address and not other.out_seconds for other in self._addresses)

    def _whole_failure(self, address: Address, last: Failure) -> Failure:
        others = [other.health.failing for other in self._addresses if other.out_seconds and other is not address]
        if not others:
            return last
        said = "; ".join(text for text in [last.message, *others] if text)
        return replace(last, message=f"none of the {len(self._addresses)} addresses answers: {said}")

    def _notice(self) -> None:
        """Called in the thread that changes the live addresses."""
        self._loop.call_soon_threadsafe(self._follow)

    def _follow(self) -> None:
        assert self._live is not None
        now = self._live.now
        for each in self._there.keys() - now:
            self._forget(self._there.pop(each))
        for each in now - self._there.keys():
            own = {"api_key": each.api_key, "concurrency": each.concurrency, "live": None}
            self._there[each] = self._add(each.base_url, each.concurrency, **own)
        if self._live.reason:
            self._give_up(Failure("connection", self._live.reason))

    def _forget(self, address: Address) -> None:
        """It stays known by its limit: calls that are under way there come back to it."""
        self._addresses.remove(address)
        self.limiter.remove(address.limit)
        task = self._loop.create_task(address.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


def _adapt(limit: AddressLimit, reply: Reply, *, began: float, now: float) -> None:
    outcome = reply.outcome
    if isinstance(outcome, Answer):
        limit.answered(began=began, now=now)
    elif outcome.kind == "timeout" or (outcome.kind == "rate_limited" and not reply.shows_spent_account):
        limit.troubled(timed_out=outcome.kind == "timeout", began=began, now=now)


class Line:
    """Limits, breaker and connections of one endpoint, over all its addresses."""

    def __init__(self, endpoint: Endpoint, config: CallsConfig, *, rng: random.Random, attempts: Books) -> None:
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
            with self.breaker:
                while True:
                    attempts, address = attempts + 1, self._pool.at(slot.at)
                    reply = await self._attempt(key, request, endpoint, address)
                    pause = self._pause_after(reply, failed, address)
                    if pause is None:
                        return _of_all(reply, attempts, before)
                    before += Spend(0, reply.prompt_tokens, reply.completion_tokens, reply.usd)
                    slot.release()
                    await asyncio.sleep(pause)
                    await slot.take_again()
        except UnsentError as unsent:
            return _of_all(Reply(unsent.failure), attempts - 1, before)
        except EndpointGivenUpError as given_up:
            return _of_all(Reply(given_up.failure), attempts, before)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    async def _attempt(self, key: str, request: Request, endpoint: Endpoint, address: Address) -> Reply:
        loop, rates = asyncio.get_running_loop(), address.rates(endpoint, request.model)
        permit = await rates.acquire(reserve(request, endpoint).tokens)
        try:
            # After the wait for its turn: a kill leaves booked what is in flight, and not what waits.
            attempt = await self._attempts.book(key, request, endpoint)
        except UnsentError:
            rates.settle(permit, used_tokens=0, limits=(), now=loop.time())
            raise
        began = loop.time()
        try:
            reply = await address.client(endpoint).send(request)
            self._attempts.settle(attempt, reply)
        except asyncio.CancelledError:
            if self.breaker.failure is not None and self.breaker.refuses:
                self._attempts.settle(attempt, Reply(self.breaker.failure))
            raise
        finally:
            self._attempts.end(attempt)
        rates.settle(permit, used_tokens=_used_tokens(reply, permit.tokens), limits=reply.rate_limits, now=loop.time())
        pause = reply.retry_after_seconds
        if reply.shows_spent_account and pause is not None and pause <= LONGEST_HONOURED_SECONDS:
            rates.pause_until(loop.time() + pause)
        self._pool.observe(address, reply, began=began, endpoint=endpoint)
        if self.breaker.failure is not None and isinstance(reply.outcome, Failure) and reply.outcome.retryable:
            return Reply(self.breaker.failure)
        return reply

    def _pause_after(self, reply: Reply, failed: Counter[FailureKind], address: Address) -> float | None:
        """Seconds until the next attempt; nothing where there is none, for the reply is an answer or the last one."""
        if not isinstance(reply.outcome, Failure):
            return None
        kind = reply.outcome.kind
        failed[kind] += 1
        if self.breaker.failure is not None:
            return None
        if reply.endpoint_at_fault:
            # An address that is out has others beside it, which may take what it refuses.
            return 0.0 if address.out_seconds and failed.total() < self._config.max_attempts else None
        return pause_before_retry(
            self._config, kind=kind, failed=failed, retry_after_seconds=reply.retry_after_seconds, rng=self._rng
        )


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _used_tokens(reply: Reply, reserved: int) -> int:
    """Tokens that a reply took; what was reserved where a server that answers does not say."""
    used = reply.prompt_tokens + reply.completion_tokens
    return reserved if isinstance(reply.outcome, Answer) and not used else used


def _of_all(reply: Reply, attempts: int, before: Spend) -> Reply:
    """The last reply, with what all attempts took: a provider charges replies that cannot be used, too."""
    outcome = reply.outcome
    return replace(
        reply,
        outcome=replace(outcome, attempts=attempts) if isinstance(outcome, Failure) else outcome,
        attempts=attempts,
        prompt_tokens=before.prompt_tokens + reply.prompt_tokens,
        completion_tokens=before.completion_tokens + reply.completion_tokens,
        usd=before.usd + reply.usd,
    )
