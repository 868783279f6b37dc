"""What calls cost: live counters of one engine, and sums over what is stored.

The store is the truth about a run's spend over restarts (`AnswerStore.spend`); the live counters begin at zero with the
process and also know what is never stored: attempts, store hits and retryable failures.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tapir_core.calls.types import Failure, FailureKind
from tapir_core.calls.wire import Reply

__all__ = ["LiveSpend", "Spend", "SpendMeter"]


@dataclass(frozen=True, slots=True)
class LiveSpend:
    """One look at the counters."""

    sent: int = 0
    """Attempts that went out."""
    stored: int = 0
    """Rows answered from the store, or by an equal request in flight."""
    answers: int = 0
    """Answers received and committed."""
    failures: Mapping[FailureKind, int] = field(default_factory=dict)
    """Requests that ended without an answer, by kind."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Spend:
    """What stored outcomes cost when they were paid."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.usd + other.usd,
        )


class SpendMeter:
    """Live counters; any thread may count and look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failures: Counter[FailureKind] = Counter()
        self._usd = 0.0

    def count_sent(self) -> None:
        """An attempt goes out."""
        with self._lock:
            self._counts["sent"] += 1

    def count_stored(self, rows: int) -> None:
        """``rows`` outcomes cost nothing now."""
        with self._lock:
            self._counts["stored"] += rows

    def count_reply(self, reply: Reply) -> None:
        """A request came to its end with ``reply``."""
        with self._lock:
            if isinstance(reply.outcome, Failure):
                self._failures[reply.outcome.kind] += 1
            else:
                self._counts["answers"] += 1
            self._counts["prompt_tokens"] += reply.prompt_tokens
            self._counts["completion_tokens"] += reply.completion_tokens
            self._usd += reply.usd

    def snapshot(self) -> LiveSpend:
        """The counters now."""
        with self._lock:
            return LiveSpend(**self._counts, failures=dict(self._failures), usd=self._usd)
