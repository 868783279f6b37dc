"""One endpoint: its addresses, limits and connections, which answer a request with retries.

Load is balanced over the addresses. An address is taken out of service after five failures in a row or when it refuses
every request, as long as another one is in service. The last one stays until it is gone for good; then the endpoint is
given up, with one clear error for all who wait for it. This is remembered: the next caller tries once more, and the
first failure gives the endpoint up again without another long wait.

Addresses may come and go (`Endpoint.live`). A new one gets calls at once; calls in flight at one that left fail and are
tried at another. While no address is in service, calls wait without spending attempts until one comes or all are given
up. One event loop owns everything here. Importing this module imports aiohttp.
"""

import asyncio
import random
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from tapir_core.calls import budget, limits, types, wire
from tapir_core.calls.books import Books, UnsentError
from tapir_core.calls.client import Client, timeout_of
from tapir_core.calls.timing import Stopwatch
from tapir_core.config import CallsConfig, Role

_FAILING: frozenset[types.FailureKind] = frozenset({"connection", "timeout", "server"})
_FAILING_STREAK = 5
"""Failures in a row after which another address is preferred, if there is one."""
_LEAST_SILENT = 3
"""Attempts in a row without a reply before an endpoint is given up: one slow row is not enough."""
_MOST_REFUSALS, _MOST_CLEAR_REFUSALS = 10, 3
"""Refusals in a row after which an endpoint that has answered before counts as refusing every request; the second for
refusals that say so themselves, because the key or the model is wrong."""
_LONGEST_OUT_SECONDS = 60.0
"""Longest time until an address that is out of service is probed with one call; the first is `backoff_seconds`."""


class Address:
    """One base URL: its limits, its state by its replies, and the connections to it.

    It is gone if every attempt failed without a reply for `dead_after_seconds`, or if it refuses every request (a wrong
    key, a wrong address, no credit) before it has answered any.
    """

    def __init__(
        self, base_url: str, ceiling: int, config: CallsConfig, *, slow_seconds: float | None = None, **own: Any
    ) -> None:
        """Open nothing yet.

        ``own`` are more fields in which this address differs from its endpoint. ``slow_seconds`` is the longest wait
        for a reply of an address that may be slow.
        """
        self.calls = limits.AddressLimit(ceiling, slow_seconds=slow_seconds)
        self.trouble: types.Failure | None = None
        """Why another address is preferred, if there is one."""
        self.answered = False
        """Whether it has ever answered a request."""
        self.out_seconds = 0.0
        """Time out of service until the next probe; 0 while it is in service."""
        self.good_since = float("-inf")
        """When the last answered call began."""
        self.passing = set[str]()
        """Useless replies after which the same request was answered: they are not the request's fault."""
        self.is_probed = False
        """While out of service: whether one call is let through."""
        self.greeted = float("-inf")
        """When it was last greeted (`GREETING`)."""
        self.greeting = asyncio.Lock()
        self._own = {"base_url": base_url, "more_base_urls": (), **own}
        self._where = base_url
        self._config = config
        self._streak = self._silent = 0
        self._refused: dict[str, float] = {}
        """Requests that were refused in a row, each with the time of its refusal."""
        self._refused_alone = set[str]()
        """Requests that were refused while others were answered: these refusals say nothing about the address."""
        self._silent_since = float("-inf")
        self._clients: dict[types.Endpoint, Client] = {}
        self.rates = cache(
            lambda endpoint, _model: limits.Rates(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        )
        """The limits per minute for an endpoint's key and a model."""

    @property
    def limit(self) -> int:
        """Most calls in flight now."""
        return int(self.is_probed) if self.out_seconds else self.calls.limit

    @property
    def load(self) -> tuple[float, int]:
        """The used share of the limit. Of equal loads a probe sorts first, so that it is never left out."""
        return self.calls.in_flight / self.limit, self.limit

    def take_out(self) -> float:
        """Send nothing here until the next probe; returns the seconds until then, which grow each time."""
        self.out_seconds = min(_LONGEST_OUT_SECONDS, 2 * self.out_seconds or self._config.backoff_seconds)
        self.is_probed = False
        return self.out_seconds

    def observe(
        self, reply: wire.Reply, *, began: float, now: float, endpoint: types.Endpoint, key: str = ""
    ) -> types.Failure | None:
        """Learn from the reply to an attempt at the request of ``key``; returns the reason once the address is gone."""
        failure = reply.outcome
        trouble = limits.TROUBLES.get("answer" if isinstance(failure, types.Answer) else failure.kind)
        if isinstance(failure, types.Answer):
            self.good_since = max(self.good_since, began)
        if trouble is not None and not reply.shows_spent_account:
            self.calls.count(trouble, began=began, now=now)
        if isinstance(failure, types.Failure) and reply.endpoint_at_fault:
            return self._count_refusal(reply, failure, endpoint, key, began, now)
        if isinstance(failure, types.Failure) and failure.kind in _FAILING:
            self._streak += 1
            if self._streak >= _FAILING_STREAK:
                said = f"{self._where} failed {self._streak} times in a row (last: {failure.message})"
                self.trouble = replace(failure, message=said)
            if reply.raw is None:
                return self._count_silence(failure, began, now)
        else:
            self.trouble, self._streak = None, 0
        self.answered, self._silent_since, self._silent = True, now, 0
        self._refused_alone |= self._refused.keys()
        self._refused.clear()
        return None

    def client(self, endpoint: types.Endpoint) -> Client:
        """The connections with an endpoint's key."""
        if endpoint not in self._clients:
            own, seconds = replace(endpoint, **self._own), timeout_of(endpoint, self._config)
            self._clients[endpoint] = Client(own, timeout_seconds=seconds)
        return self._clients[endpoint]

    async def close(self) -> None:
        """Close every connection; calls in flight fail, and a later call opens new ones."""
        # Connections that are opened meanwhile stay open: the call that opened them uses them, and so does the next.
        closing, self._clients = self._clients, {}
        await asyncio.gather(*(each.close() for each in closing.values()))

    def _count_refusal(
        self, reply: wire.Reply, failure: types.Failure, endpoint: types.Endpoint, key: str, began: float, now: float
    ) -> types.Failure | None:
        if self.answered:
            # A call that began before the first refusal tells no more than that one.
            if key in self._refused_alone or (self._refused and began < min(self._refused.values())):
                return None
            self._refused[key or str(len(self._refused))] = now
            if len(self._refused) < (_MOST_CLEAR_REFUSALS if reply.refuses_everybody else _MOST_REFUSALS):
                return None
        remedy = {"unauthorized": endpoint.key_remedy, "unsupported": types.unsupported_remedy(failure.parameter)}.get(
            failure.kind, "Check base_url (up to and with /v1) and the model name"
        )
        said = f"{failure.message}: so {self._where} refuses every request. {remedy}; then the same command goes on."
        self.trouble = replace(failure, message=said, said=failure.message, refuses_all=reply.refuses_everybody)
        return self.trouble

    def _count_silence(self, failure: types.Failure, began: float, now: float) -> types.Failure | None:
        if not self._silent:
            self._silent_since = max(began, self._silent_since)
        self._silent += 1
        if now - self._silent_since < self._config.dead_after_seconds or self._silent < _LEAST_SILENT:
            return None
        self.trouble = types.Failure(
            "connection",
            f"{self._where} has answered nothing for {self._config.dead_after_seconds:g} s (last: {failure.message}). "
            "Check that the server runs and is reached from here; then the same command goes on.",
        )
        return self.trouble


@dataclass(eq=False)
class Slot:
    """The right to one call in flight at one address. Releasing it twice is the same as once."""

    line: "Line"
    at: Address | None = None
    """Nothing while it is released, and when the endpoint was given up."""
    began: float = 0.0
    """When it was given out."""

    def release(self, _ended: object = None) -> None:
        """Give the right back. Takes the arguments of `asyncio.Task.add_done_callback`."""
        if self.at is not None:
            self.at.calls.leave(self.began)
            self.at = None
            self.line.hand_out()


@dataclass(slots=True)
class _Useless:
    """Replies without an answer to one request, in this process."""

    last: str = ""
    since: float = 0.0
    """When the first of the equal ones in a row came."""
    uncounted: int = 0
    """How many of them are not in the books yet."""
    seen: set[str] = field(default_factory=set)


class Line:
    """All addresses of one endpoint. The longest waiting call goes next, to the least loaded address."""

    def __init__(self, endpoint: types.Endpoint, config: CallsConfig, *, rng: random.Random, books: Books) -> None:
        self._config = config
        self._rng = rng
        self._books = books
        self._loop = asyncio.get_running_loop()
        self._stopwatch = Stopwatch(self._loop.time)
        self._waiting: deque[tuple[Slot, asyncio.Future[None]]] = deque()
        self._given_up = False
        self._last_word = wire.Reply(types.Failure("connection", "nothing was sent yet"))
        """The reply to every waiting call once the endpoint is given up. It says if calls in flight cost anything."""
        self._at_work: set[asyncio.Timeout] = set()
        self._live = endpoint.live
        self._notice = partial(self._loop.call_soon_threadsafe, self._follow)
        """Called by the thread that changes the live addresses."""
        self.addresses: dict[types.LiveAddress | str, Address] = {}
        self._left: dict[Address, asyncio.Task[None]] = {}
        """Addresses that left, each with the task that closes it; calls in flight there still refer to it."""
        if self._live is None:
            slow = timeout_of(endpoint, config) if endpoint.is_slow else None
            self.addresses |= {
                url: Address(url, endpoint.concurrency, config, slow_seconds=slow) for url in endpoint.base_urls
            }
        else:
            self._live.follow(self._notice)

    def admit(self, endpoint: types.Endpoint) -> None:
        """Prepare for a new caller: it may try again what was given up, and may allow fewer calls in flight."""
        self._given_up = False
        if self._live is not None:
            self._follow()
        else:
            for each in self.addresses.values():
                each.calls.ceiling = min(each.calls.ceiling, endpoint.concurrency)

    async def slot(self) -> Slot:
        """Wait for a slot; it has no address once the endpoint is given up."""
        slot = Slot(self)
        await self._take(slot)
        if slot.at is None:
            # A long list must not take memory for its length: its next row waits until this one has ended.
            await asyncio.sleep(0)
        return slot

    def hand_out(self) -> None:
        """Give free slots to waiting calls; called when a slot or an address came, or the endpoint was given up."""
        while self._waiting:
            free = [each for each in self.addresses.values() if each.calls.in_flight < each.limit]
            if not free and not self._given_up:
                return
            slot, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                slot.at = min(free, key=lambda each: each.load, default=None)
                if slot.at is not None:
                    slot.began = self._loop.time()
                    slot.at.calls.enter(slot.began)

    async def answer(self, key: str, request: types.Request, endpoint: types.Endpoint, slot: Slot) -> wire.Reply:
        """The reply to ``request``, which has the key ``key``, after as many attempts as its failures allow.

        ``slot`` is given back during the pause before a retry. With the reply it is held, and the caller releases it.
        """
        attempts, failed, before, useless = 0, Counter[types.FailureKind](), types.Spend(), _Useless()
        until_given_up = asyncio.timeout(None)
        try:
            async with until_given_up:
                self._at_work.add(until_given_up)
                while slot.at is not None and not self._given_up:
                    attempts, address = attempts + 1, slot.at
                    reply = await self._attempt(key, request, endpoint, address)
                    if await self._is_own(reply, request, endpoint, address, useless):
                        reply, useless.uncounted = await self._books.count_useless(key, reply, useless.uncounted), 0
                    pause = self._pause_after(reply, failed, address)
                    if pause is None:
                        return _of_all(reply, attempts, before) if failed else reply
                    before += reply.spent
                    slot.release()
                    await asyncio.sleep(pause)
                    await self._take(slot)
        except UnsentError as unsent:
            return _of_all(wire.Reply(unsent.failure), attempts - 1, before)
        except TimeoutError:
            pass
        finally:
            self._at_work.discard(until_given_up)
        return _of_all(self._last_word, attempts, before)

    async def close(self) -> None:
        """Close every connection."""
        if self._live is not None:
            self._live.unfollow(self._notice)
        await asyncio.gather(*(each.close() for each in (*self.addresses.values(), *self._left)))

    async def _take(self, slot: Slot) -> None:
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((slot, turn))
        self.hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            slot.release()
            raise

    async def _attempt(
        self, key: str, request: types.Request, endpoint: types.Endpoint, address: Address
    ) -> wire.Reply:
        rates, clock = address.rates(endpoint, request.model), self._loop.time
        permit = await rates.acquire(budget.reserve(request, endpoint).tokens)
        try:
            # Booked after the wait for its turn, so that a kill leaves only calls in flight booked.
            attempt = await self._books.book(key, request, endpoint)
        except UnsentError:
            rates.finish(permit, used_tokens=0, now=clock())
            raise
        began, begun = clock(), self._stopwatch.begin()
        try:
            # Opens new connections if the address has left since.
            self._books.settle(attempt, reply := await address.client(endpoint).send(request))
        except asyncio.CancelledError:
            if self._given_up and not self._last_word.cost_unknown:
                self._books.settle(attempt, self._last_word)
            raise
        finally:
            timing = self._stopwatch.end(begun)
            self._books.end(attempt)
        if isinstance(reply.outcome, types.Answer):
            reply = replace(reply, outcome=replace(reply.outcome, timing=timing))
        else:
            self._books.meter.timeouts += reply.outcome.kind == "timeout"
        rates.finish(
            permit,
            used_tokens=permit.tokens if reply.cost_unknown else reply.spent.tokens,
            now=clock(),
            limits=reply.rate_limits,
            pause_seconds=(reply.shows_spent_account and reply.retry_after_seconds) or 0.0,
        )
        return self._observe(address, reply, began=began, endpoint=endpoint, key=key)

    async def _is_own(
        self, reply: wire.Reply, request: types.Request, endpoint: types.Endpoint, address: Address, row: "_Useless"
    ) -> bool:
        """Whether a reply without an answer is the request's own fault, so that it is counted in the books.

        A server that fails every request, or fails now and then, says nothing about one request. A reply that is no
        chat completion counts only if the address answers other requests meanwhile, and never answered a request after
        the same reply; once it does, what other rows and earlier starts counted of that reply is forgotten. If there is
        no other request to answer, it is greeted, so that the last rows end too.
        """
        if isinstance(reply.outcome, types.Answer) and (passed := row.seen - address.passing):
            address.passing |= passed
            self._books.forgive(passed)
        if not reply.useless or isinstance(reply.outcome, types.Answer):
            return False
        if row.last != reply.useless:
            row.last, row.uncounted, row.since = reply.useless, 0, self._loop.time()
        if not reply.is_completion:
            row.seen.add(reply.useless)
        row.uncounted += 1
        if reply.is_completion or reply.useless in address.passing:
            return reply.is_completion
        if row.uncounted >= min(types.MOST_USELESS, self._config.max_attempts, self._config.retries.server):
            async with address.greeting:
                if max(address.greeted, address.good_since) <= row.since:
                    await self._greet(request, endpoint, address)
        return address.good_since > row.since

    async def _greet(self, request: types.Request, endpoint: types.Endpoint, address: Address) -> None:
        """Send the address a request that any working server answers; it learns from the reply as from any other."""
        address.greeted = self._loop.time()
        role: Role = "answer" if request.role in budget.UNPAID else "probe"
        greeting = replace(
            request,
            role=role,
            messages=(types.Message("user", types.GREETING),),
            top_logprobs=0,
            schema="",
            prompt_version="",
            with_tokens=False,
            scored=None,
        )
        with suppress(UnsentError):
            await self._attempt(greeting.key, greeting, endpoint, address)

    def _observe(
        self, address: Address, reply: wire.Reply, *, began: float, endpoint: types.Endpoint, key: str
    ) -> wire.Reply:
        """Update the address and the endpoint by a reply; returns the reply that the request gets."""
        if address not in self._left:
            gone = address.observe(reply, began=began, now=self._loop.time(), endpoint=endpoint, key=key)
            others = [each for each in self.addresses.values() if each is not address]
            another = any(not each.out_seconds for each in others)
            if address.trouble is None:
                address.out_seconds = 0.0
            elif address.limit and (address.out_seconds or another or self._live is not None):
                self._loop.call_later(address.take_out(), self._probe, address)
            if gone is not None and not another:
                said = [gone.message, *(each.trouble.message for each in others if each.trouble)]
                if others:
                    refused = gone.refuses_all and all(each.trouble and each.trouble.refuses_all for each in others)
                    said_all = f"none of the {len(said)} addresses answers: {'; '.join(said)}"
                    gone = replace(gone, message=said_all, refuses_all=refused)
                # An endpoint that has answered may charge calls in flight: credit ran out, or a model is gone.
                ever_answered = any(each.answered for each in self.addresses.values())
                self._give_up(gone, is_free=reply.endpoint_at_fault and not ever_answered)
        spoilt = self._given_up and isinstance(reply.outcome, types.Failure) and reply.outcome.retryable
        return self._last_word if spoilt else reply

    def _pause_after(self, reply: wire.Reply, failed: Counter[types.FailureKind], address: Address) -> float | None:
        """Seconds until the next attempt; None if the reply is an answer or the last one."""
        if isinstance(reply.outcome, types.Answer):
            return None
        kind = reply.outcome.kind
        failed[kind] += 1
        if reply.endpoint_at_fault or self._given_up:
            # If this address is out of service there are others, which may take what it refuses.
            may_move = address.out_seconds and not self._given_up and failed.total() < self._config.max_attempts
            return 0.0 if may_move else None
        return limits.pause_before_retry(
            self._config, kind=kind, failed=failed, retry_after_seconds=reply.retry_after_seconds, rng=self._rng
        )

    def _probe(self, address: Address) -> None:
        address.is_probed = True
        self.hand_out()

    def _give_up(self, failure: types.Failure, *, is_free: bool = False) -> None:
        """End every wait for an answer or a slot; ``is_free`` says that calls in flight cost nothing."""
        if not self._given_up:
            self._given_up, self._last_word = True, wire.Reply(failure, cost_unknown=not is_free)
            at_work, self._at_work = self._at_work, set()
            # Where credit ran out or a key was revoked, what is in flight is answered, and charged: for two minutes.
            for each in at_work:
                each.reschedule(
                    self._loop.time() + 2 * _LONGEST_OUT_SECONDS if failure.refuses_all and not is_free else 0.0
                )
        self.hand_out()

    def _follow(self) -> None:
        assert self._live is not None
        for each in self.addresses.keys() - self._live.now:
            address = self.addresses.pop(each)
            self._left[address] = self._loop.create_task(address.close())
        for new in self._live.now - self.addresses.keys():
            self.addresses[new] = Address(
                new.base_url, new.concurrency, self._config, api_key=new.api_key, concurrency=new.concurrency, live=None
            )
        self.hand_out()
        if self._live.reason:
            self._give_up(types.Failure("connection", self._live.reason))


def _of_all(reply: wire.Reply, attempts: int, before: types.Spend) -> wire.Reply:
    """The last reply, with the tokens and costs of all attempts: providers charge unusable replies, too."""
    outcome = reply.outcome
    return replace(
        reply,
        outcome=replace(outcome, attempts=attempts) if isinstance(outcome, types.Failure) else outcome,
        spent=replace(before + reply.spent, requests=attempts),
    )
