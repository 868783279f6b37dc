"""Equal requests in flight share one call: who claims a key first answers it for everybody.

Within one process. A claim is taken before the store is looked at and given up only after the answer is committed, so
there is no moment at which an answered request can be asked again. Hundreds of thousands of keys may wait at once: one
that nobody joins costs an entry of a dictionary.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from tapir_core.calls.types import Outcome

__all__ = ["Claim", "Flights"]

Joined = Future[Outcome | None]
"""Done when the key is answered; holds nothing when its asker gave up."""


@dataclass(slots=True)
class Claim:
    """The keys of one asker."""

    resolve: Callable[[str, Outcome], None]
    """Answer an own key for everybody who joined it."""
    own: dict[str, None] = field(default_factory=dict)
    """Keys that the asker must answer, in the order in which it asked."""
    joined: dict[str, Joined] = field(default_factory=dict)
    """Keys that another asker answers."""


class Flights:
    """The keys that are being answered now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight: dict[str, Outcome | Joined | None] = {}
        """A key that is claimed: nothing yet, who joined it, or its answer once it has one."""

    @contextmanager
    def claim(self, keys: Iterable[str]) -> Iterator[Claim]:
        """Own those of ``keys`` that nobody answers, join the others. What is unresolved at the end is given up."""
        claim = Claim(self._resolve)
        with self._lock:
            for key in keys:
                if key in self._in_flight:
                    claim.joined[key] = self._join(key)
                else:
                    claim.own[key] = self._in_flight[key] = None
        try:
            yield claim
        finally:
            with self._lock:
                for key in claim.own:
                    flight = self._in_flight.pop(key)
                    if isinstance(flight, Future) and not flight.done():
                        flight.set_result(None)

    def _join(self, key: str) -> Joined:
        flight = self._in_flight[key]
        if isinstance(flight, Future):
            return flight
        joined: Joined = Future()
        if flight is None:
            self._in_flight[key] = joined
        else:
            joined.set_result(flight)
        return joined

    def _resolve(self, key: str, outcome: Outcome) -> None:
        with self._lock:
            flight = self._in_flight[key]
            if isinstance(flight, Future):
                flight.set_result(outcome)
            else:
                self._in_flight[key] = outcome
