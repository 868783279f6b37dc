"""The pool of an endpoint whose addresses come and go: `LiveAddresses` says which there are.

One that comes is balanced over at once. One that left is forgotten: what was in flight there breaks and is tried at
another. While none is in service calls wait, without spending attempts, until one comes or they are given up.
"""

import asyncio
import sys

from tapir_core.calls.breaker import Breaker
from tapir_core.calls.endpoint_pool import Address, Pool
from tapir_core.calls.limiter import Place
from tapir_core.calls.live import LiveAddress
from tapir_core.calls.types import Endpoint, Failure
from tapir_core.calls.wire import Reply
from tapir_core.config import CallsConfig

__all__ = ["LivePool"]


class LivePool(Pool):
    """Which addresses of a live endpoint are there and in service. Belongs to one event loop."""

    def __init__(self, endpoint: Endpoint, config: CallsConfig, breaker: Breaker) -> None:
        assert endpoint.live is not None
        super().__init__(endpoint, config, breaker)
        self._config = config
        self._live = endpoint.live
        self._there: dict[LiveAddress, Address] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        # Open only while all is given up: who gets a slot here is told so instead of waiting for ever.
        self._nowhere = Place(ceiling=0, limit=0)
        self.limiter.add(self._nowhere)
        self._loop = asyncio.get_running_loop()
        self._live.follow(self._notice)
        self._follow()

    def admit(self, endpoint: Endpoint) -> None:
        """A new asker comes; each address keeps its own concurrency."""
        self._nowhere.limit = 0
        self._follow()

    def observe(self, address: Address, reply: Reply, *, began: float, endpoint: Endpoint) -> None:
        """Learn from a reply; what one says that has left matters to nobody."""
        if address in self._addresses:
            super().observe(address, reply, began=began, endpoint=endpoint)

    async def close(self) -> None:
        """Close every connection."""
        self._live.unfollow(self._notice)
        await asyncio.gather(*self._leaving, *(address.close() for address in self._by_place.values()))

    def _first_addresses(self, endpoint: Endpoint, config: CallsConfig) -> list[Address]:
        return []

    def _may_go(self, address: Address) -> bool:
        return True

    def _give_up(self, failure: Failure, *, refuses: bool = False) -> None:
        super()._give_up(failure, refuses=refuses)
        self._nowhere.limit = sys.maxsize
        self.limiter.wake()

    def _notice(self) -> None:
        self._loop.call_soon_threadsafe(self._follow)

    def _follow(self) -> None:
        now = self._live.now
        for each in self._there.keys() - now:
            self._forget(self._there.pop(each))
        for each in now - self._there.keys():
            self._there[each] = self._welcome(each)
        if self._live.reason:
            self._give_up(Failure("connection", self._live.reason))

    def _welcome(self, live: LiveAddress) -> Address:
        own = {"api_key": live.api_key, "concurrency": live.concurrency, "live": None}
        address = Address(live.base_url, live.concurrency, self._config, wake=self._wake, **own)
        self._addresses.append(address)
        self._by_place[address.place] = address
        self.limiter.add(address.place)
        return address

    def _forget(self, address: Address) -> None:
        self._addresses.remove(address)
        self.limiter.remove(address.place)
        task = self._loop.create_task(address.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
