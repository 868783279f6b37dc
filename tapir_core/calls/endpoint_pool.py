"""The addresses of one endpoint: load is balanced over them, one that fails is taken out and tried again later.

An address is out of service after `FAILING_STREAK` failures in a row or when it refuses everybody, as long as another
one is in service: the last one stays until it is gone for good (`Health`), and then the whole endpoint is given up.
Belongs to one event loop.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tapir_core.calls.adaptive import AdaptiveLimit
from tapir_core.calls.breaker import Breaker, Health
from tapir_core.calls.client import Client
from tapir_core.calls.limiter import Limiter, Place
from tapir_core.calls.rates import Rates
from tapir_core.calls.types import Answer, Endpoint, Failure
from tapir_core.calls.wire import Reply
from tapir_core.config import CallsConfig

__all__ = ["Address", "Pool"]

FIRST_OUT_SECONDS = 1.0
LONGEST_OUT_SECONDS = 60.0
"""Time until an address that is out is probed with one call; it doubles from the first to the longest."""


class Address:
    """One base URL: its slots, limits, health and connections."""

    def __init__(
        self, base_url: str, ceiling: int, config: CallsConfig, *, wake: Callable[[], None], **own: Any
    ) -> None:
        """Nothing is opened yet; ``own`` are the fields in which this address differs from its endpoint."""
        self.place = Place(ceiling=ceiling, limit=ceiling)
        self.limit = AdaptiveLimit(self.place)
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
        self.out_seconds = min(LONGEST_OUT_SECONDS, 2 * self.out_seconds or FIRST_OUT_SECONDS)
        self.place.limit = 0
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
        self.place.limit = 1
        self._wake()

    def _cancel_probe(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None


class Pool:
    """Which addresses of an endpoint are in service."""

    def __init__(self, endpoint: Endpoint, config: CallsConfig, breaker: Breaker) -> None:
        self._breaker = breaker
        self._addresses = self._first_addresses(endpoint, config)
        self._by_place = {address.place: address for address in self._addresses}
        self.limiter = Limiter([address.place for address in self._addresses])

    def admit(self, endpoint: Endpoint) -> None:
        """A new asker comes, who may allow less in flight."""
        self.limiter.lower_to(endpoint.concurrency)

    def at(self, place: Place) -> Address:
        """The address that ``place`` belongs to."""
        return self._by_place[place]

    def observe(self, address: Address, reply: Reply, *, began: float, endpoint: Endpoint) -> None:
        """Learn from a reply: how much the address takes, and whether it stays in service."""
        now = asyncio.get_running_loop().time()
        given_up = address.health.observe(reply, began=began, now=now, endpoint=endpoint)
        if address.out_seconds:
            if given_up is None and address.health.failing is None:
                address.bring_back()
            elif address.place.limit:
                address.take_out()
        elif (given_up or address.health.failing) and self._may_go(address):
            address.take_out()
        else:
            _adapt(address.limit, reply, began=began, now=now)
        if given_up is not None and not self._another_than(address):
            self._give_up(
                self._whole_failure(address, given_up), refuses=reply.endpoint_at_fault and not self._ever_answered
            )

    async def close(self) -> None:
        """Close every connection."""
        for address in self._addresses:
            await address.close()

    def _first_addresses(self, endpoint: Endpoint, config: CallsConfig) -> list[Address]:
        urls = dict.fromkeys(endpoint.base_urls)
        return [Address(url, endpoint.concurrency, config, wake=self._wake) for url in urls]

    def _may_go(self, address: Address) -> bool:
        """Whether an address may be out of service: as long as another one is in service."""
        return self._another_than(address)

    def _give_up(self, failure: Failure, *, refuses: bool = False) -> None:
        self._breaker.trip(failure, refuses=refuses)

    @property
    def _ever_answered(self) -> bool:
        """Of one that answered before, credit may have run out or a model gone: what is in flight may be charged."""
        return any(address.health.answered for address in self._addresses)

    def _another_than(self, address: Address) -> bool:
        return any(other is not address and not other.out_seconds for other in self._addresses)

    def _whole_failure(self, address: Address, last: Failure) -> Failure:
        others = [other.health.failing for other in self._addresses if other.out_seconds and other is not address]
        if not others:
            return last
        said = "; ".join(text for text in [last.message, *others] if text)
        return Failure(last.kind, f"none of the {len(self._addresses)} addresses answers: {said}")

    def _wake(self) -> None:
        self.limiter.wake()


def _adapt(limit: AdaptiveLimit, reply: Reply, *, began: float, now: float) -> None:
    outcome = reply.outcome
    if isinstance(outcome, Answer):
        limit.answered(began=began, now=now, tokens=outcome.completion_tokens)
    elif outcome.kind == "timeout":
        limit.timed_out(began=began, now=now)
    elif outcome.kind == "rate_limited" and not reply.shows_spent_account:
        limit.limited(began=began, now=now)
