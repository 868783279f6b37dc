"""The state of one list of requests while it is answered: what is still waited for, and who is told."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tapir_core.calls.types import Endpoint, EndpointSource, Failure, Outcome, Request

__all__ = ["Asking", "IsStopped", "OnOutcome", "Once", "never_stopped"]

OnOutcome = Callable[[int, Outcome], None]
"""Told the position of a request in its list and its outcome, in the asking thread, as soon as it is committed."""


IsStopped = Callable[[], bool]
"""Asked before a request of a list is sent, on the event loop: whether it is not to be."""


def never_stopped() -> bool:
    """The list is asked to its end."""
    return False


class Once:
    """An endpoint source that is called at most once."""

    def __init__(self, source: EndpointSource) -> None:
        self._source = source
        self._endpoint: Endpoint | None = None

    def __call__(self) -> Endpoint:
        """The endpoint."""
        if self._endpoint is None:
            self._endpoint = self._source()
        return self._endpoint


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


def _as_stored(outcome: Outcome) -> Outcome:
    retryable = isinstance(outcome, Failure) and outcome.retryable
    return outcome if retryable or outcome.stored else replace(outcome, stored=True)
