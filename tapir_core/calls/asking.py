"""The state of one list of requests while it is answered: what is still waited for, who is told, what others answer.

Equal requests in flight share one call, within one process: who claims a key first answers it for everybody. A claim is
taken before the store is looked at and given up only after the answer is committed, so there is no moment at which an
answered request can be asked again. Hundreds of thousands of keys may wait at once: one that nobody joins costs an
entry of a dictionary.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tapir_core.calls.types import Failure, Outcome, Request

_MOST_IN_GROUP = 5000
"""Keys that one statement may name."""

OnOutcome = Callable[[int, Outcome], None]
"""Told the position of a request in its list and its outcome, in the asking thread, as soon as it is committed."""

IsStopped = Callable[[], bool]
"""Asked before a request of a list is sent, on the event loop: whether it is not to be."""

_Joined = Future[Outcome | None]
"""Done when the key is answered; holds nothing when its asker gave up."""

T = TypeVar("T")


def never_stopped() -> bool:
    """The list is asked to its end."""
    return False


class Asking:
    """Requests by key. Equal requests of one list are one key with several positions."""

    def __init__(
        self, requests: Sequence[Request], on_outcome: OnOutcome | None, is_stopped: IsStopped = never_stopped
    ) -> None:
        self.is_stopped = is_stopped
        self.waiting: dict[str, Request] = {}
        """What has no outcome yet, by key."""
        self._positions: dict[str, list[int]] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._on_outcome = on_outcome
        for position, request in enumerate(requests):
            key = request.key
            self.waiting.setdefault(key, request)
            self._positions.setdefault(key, []).append(position)

    def deliver(self, key: str, outcome: Outcome, *, shared: bool) -> int:
        """Give ``outcome`` to every row of ``key``; only the first of a call that was not shared has paid for it.

        Returns:
            How many rows got it without paying.
        """
        del self.waiting[key]
        free = _as_stored(outcome)
        for nth, position in enumerate(self._positions[key]):
            given = outcome if nth == 0 and not shared else free
            self._outcomes[position] = given
            if self._on_outcome is not None:
                self._on_outcome(position, given)
        return len(self._positions[key]) - (0 if shared else 1)

    def outcomes(self) -> list[Outcome]:
        """Every outcome, in the order of the requests."""
        return [self._outcomes[position] for position in range(len(self._outcomes))]


@dataclass(slots=True)
class Claim:
    """The keys of one asker."""

    resolve: Callable[[str, Outcome], None]
    """Answer an own key for everybody who joined it."""
    own: dict[str, None] = field(default_factory=dict)
    """Keys that the asker must answer, in the order in which it asked."""
    joined: dict[str, _Joined] = field(default_factory=dict)
    """Keys that another asker answers."""


class Flights:
    """The keys that are being answered now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight: dict[str, Outcome | _Joined | None] = {}
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

    def _join(self, key: str) -> _Joined:
        flight = self._in_flight[key]
        if isinstance(flight, Future):
            return flight
        joined: _Joined = Future()
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


def in_groups(values: Iterable[T], size: int = _MOST_IN_GROUP) -> Iterator[Sequence[T]]:
    """``values`` in their order, ``size`` at a time."""
    listed = list(values)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def _as_stored(outcome: Outcome) -> Outcome:
    retryable = isinstance(outcome, Failure) and outcome.retryable
    return outcome if retryable or outcome.stored else replace(outcome, stored=True)
