"""The state of one list of requests while it is answered: what is still waited for, and who is told."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from tapir_core.calls.types import Failure, Outcome, Request

_MOST_IN_GROUP = 5000
"""Keys that one statement may name."""

OnOutcome = Callable[[int, Outcome], None]
"""Told the position of a request in its list and its outcome, in the asking thread, as soon as it is committed."""

IsStopped = Callable[[], bool]
"""Asked before a request of a list is sent, on the event loop: whether it is not to be."""

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


def in_groups(values: Iterable[T], size: int = _MOST_IN_GROUP) -> Iterator[Sequence[T]]:
    """``values`` in their order, ``size`` at a time."""
    listed = list(values)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def _as_stored(outcome: Outcome) -> Outcome:
    retryable = isinstance(outcome, Failure) and outcome.retryable
    return outcome if retryable or outcome.stored else replace(outcome, stored=True)
