"""A window of replies at one level of calls in flight: shares, speed and latency, for `AdaptiveLimit`. Pure."""

from dataclasses import dataclass, field
from statistics import median

__all__ = ["LEAST_SAMPLES", "ReplyWindow"]

LEAST_SAMPLES = 8
"""Latencies, or answers, without which a window says nothing about speed."""


@dataclass(slots=True)
class ReplyWindow:
    """What the replies to calls that began after ``began`` were."""

    began: float | None
    """Nothing until the first call of a new address began."""
    size: int
    """Replies that fill it."""
    settling: int | None
    """Replies after which the calls of the earlier level are gone, so that speed can be measured; nothing while the
    level moves too fast for that."""
    limited: int = 0
    seconds: list[float] = field(default_factory=list)
    seconds_per_token: list[float] = field(default_factory=list)
    answers: int = 0
    """Answers since ``settled``, to calls of whatever level."""
    settled: float | None = None

    @property
    def replies(self) -> int:
        """Replies to calls of this window."""
        return self.limited + len(self.seconds)

    @property
    def limited_share(self) -> float:
        """429s among all replies."""
        return self.limited / max(1, self.replies)

    def holds(self, began: float) -> bool:
        """True when a call that began then belongs to this window."""
        if self.began is None:
            self.began = began
        return began >= self.began

    def count_latency(self, seconds: float, tokens: int) -> None:
        """A call of this window took so long."""
        self.seconds.append(seconds)
        self.seconds_per_token.append(seconds / max(1, tokens))

    def speed(self, now: float) -> float | None:
        """Answers per second; nothing when too few came."""
        if self.settled is None or self.answers < LEAST_SAMPLES or now <= self.settled:
            return None
        return self.answers / (now - self.settled)

    def latency(self) -> tuple[float, float] | None:
        """Medians for a call and for a token, which single calls that hang do not move; nothing when too few came."""
        if len(self.seconds) < LEAST_SAMPLES:
            return None
        return max(1e-6, median(self.seconds)), max(1e-9, median(self.seconds_per_token))
