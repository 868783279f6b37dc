"""What calls cost: live counters of one engine, and sums over what is stored.

The store is the truth about a run's spend over restarts (`AnswerStore.spend_by_role`); the live counters begin at zero
with the process and also know what came from the store and what failed.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tapir_core.calls.types import Failure, FailureKind
from tapir_core.calls.wire import Reply


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
    """What was spent, over all starts and processes: what is booked for attempts without a known cost included."""

    requests: int = 0
    """Attempts that went out."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    """Time in which such requests were worked on."""

    @property
    def tokens(self) -> int:
        """Of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.usd + other.usd,
            self.seconds + other.seconds,
        )

    def __sub__(self, other: "Spend") -> "Spend":
        return Spend(
            self.requests - other.requests,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.usd - other.usd,
            self.seconds - other.seconds,
        )


class SpendMeter:
    """Live counters; any thread may count and look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failures: Counter[FailureKind] = Counter()
        self._usd = 0.0
        self.cap_reached = ""
        """The cap that was reached last, in words."""

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
                if reply.outcome.kind == "budget":
                    self.cap_reached = reply.outcome.message
            else:
                self._counts["answers"] += 1
            self._counts["prompt_tokens"] += reply.prompt_tokens
            self._counts["completion_tokens"] += reply.completion_tokens
            self._usd += reply.usd

    def snapshot(self) -> LiveSpend:
        """The counters now."""
        with self._lock:
            return LiveSpend(**self._counts, failures=dict(self._failures), usd=self._usd)


class WorkClock:
    """Time in which something is worked on, by role; overlapping work of one role counts once. For any thread."""

    def __init__(self, add_seconds: Callable[[str, float], object]) -> None:
        self._add_seconds = add_seconds
        self._lock = threading.Lock()
        self._working: Counter[str] = Counter()
        self._since: dict[str, float] = {}

    @contextmanager
    def working(self, role: str) -> Iterator[None]:
        """The block is work of ``role``."""
        self.begin(role)
        try:
            yield
        finally:
            self.end(role)

    def begin(self, role: str) -> None:
        """Work of ``role`` begins."""
        with self._lock:
            self._working[role] += 1
            self._since.setdefault(role, time.monotonic())

    def end(self, role: str) -> None:
        """One piece of work of ``role`` ends."""
        with self._lock:
            self._working[role] -= 1
            # A clock that was ended with its engine has nothing left to add.
            if not self._working[role] and role in self._since:
                self._tell(role)
                del self._since[role]

    def tell_all(self, *, older_than_seconds: float) -> None:
        """Add up what has run for longer than this since it was last added."""
        with self._lock:
            now = time.monotonic()
            for role, since in list(self._since.items()):
                if now - since >= older_than_seconds:
                    self._tell(role)

    def end_all(self) -> None:
        """Add up everything; what still works counts no further."""
        with self._lock:
            for role in list(self._since):
                self._tell(role)
            self._since.clear()

    def _tell(self, role: str) -> None:
        now = time.monotonic()
        self._add_seconds(role, now - self._since[role])
        self._since[role] = now
