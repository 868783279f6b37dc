"""Addresses of one model that come and go while it is asked: what `Endpoint.live` holds.

Who serves the model says which there are, from any thread; the pool of the endpoint's line follows. Limits: nothing
here looks at an address, and an empty set means *wait* until it is given up.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LiveAddress:
    """One of them, with its own key."""

    base_url: str
    concurrency: int
    """Most calls in flight."""
    api_key: str | None = field(default=None, repr=False)


class LiveAddresses:
    """The addresses that there are now. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._now: frozenset[LiveAddress] = frozenset()
        self._reason = ""
        self._followers: list[Callable[[], None]] = []

    @property
    def now(self) -> frozenset[LiveAddress]:
        """Those that there are."""
        return self._now

    @property
    def reason(self) -> str:
        """Why nobody need wait for one any more; empty while somebody may come."""
        return self._reason

    def set(self, addresses: Iterable[LiveAddress]) -> None:
        """Say which there are; that there are none is no reason to give up."""
        self._change(frozenset(addresses), "")

    def give_up(self, reason: str) -> None:
        """Say that there are none and that none will come."""
        self._change(frozenset(), reason)

    def wait(self, seconds: float) -> bool:
        """Wait until there is one or they are given up; whether that came within ``seconds``."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._now or self._reason), timeout=seconds)

    def follow(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` after each change, in the thread that makes it."""
        with self._changed:
            self._followers.append(tell)

    def unfollow(self, tell: Callable[[], None]) -> None:
        """Call it no more; when this returns no call is under way."""
        with self._changed:
            self._followers.remove(tell)

    def _change(self, now: frozenset[LiveAddress], reason: str) -> None:
        with self._changed:
            if (now, reason) == (self._now, self._reason):
                return
            self._now, self._reason = now, reason
            self._changed.notify_all()
            for tell in self._followers:
                tell()
