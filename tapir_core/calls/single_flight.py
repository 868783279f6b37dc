"""Equal requests in flight share one call: who claims a key first answers it for everybody.

Within one process. A claim is taken before the store is looked at and given up only after the answer is committed, so
there is no moment at which an answered request can be asked again.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from tapir_core.calls.types import Outcome

__all__ = ["Claim", "Flights"]


@dataclass(slots=True)
class Claim:
    """The keys of one asker."""

    own: dict[str, Future[Outcome | None]] = field(default_factory=dict)
    """Keys that the asker must answer with `resolve`."""
    joined: dict[str, Future[Outcome | None]] = field(default_factory=dict)
    """Keys that another asker answers; nothing when that asker gave up."""

    def resolve(self, key: str, outcome: Outcome) -> None:
        """Answer an own key for everybody who joined it."""
        self.own[key].set_result(outcome)


class Flights:
    """The keys that are being answered now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight: dict[str, Future[Outcome | None]] = {}

    @contextmanager
    def claim(self, keys: Iterable[str]) -> Iterator[Claim]:
        """Own those of ``keys`` that nobody answers, join the others. What is unresolved at the end is given up."""
        claim = Claim()
        with self._lock:
            for key in keys:
                flight = self._in_flight.get(key)
                if flight is not None:
                    claim.joined[key] = flight
                else:
                    claim.own[key] = self._in_flight[key] = Future()
        try:
            yield claim
        finally:
            with self._lock:
                for key, flight in claim.own.items():
                    del self._in_flight[key]
                    if not flight.done():
                        flight.set_result(None)
