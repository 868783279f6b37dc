"""Which requests the stand-in fails on purpose, and how: shares by request, windows by time.

Limits: shares are drawn from a request's body and from how often that body came before, so the same requests meet the
same faults in every run and in any order. Windows go by the server's clock: what falls into one depends on the client.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, get_args

from tapir_core.errors import ConfigError

__all__ = ["FAULT_KINDS", "FaultKind", "FaultScript", "Faults", "Window", "draw_unit"]

FaultKind = Literal["429", "500", "hang", "reset", "truncated", "empty", "filter", "model", "slow", "trickle"]
"""The names of the faults in specs, files, log and counts; docs/standin.md says what each does."""
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in which a fault strikes."""

    fault: FaultKind
    from_seconds: float
    """Begin, in seconds after the server's start."""
    to_seconds: float = math.inf
    """End, in seconds after the server's start; without one it never ends."""
    share: float = 1.0
    """Share of the requests inside the window that it strikes."""


@dataclass(frozen=True, slots=True)
class Faults:
    """A fault script. Without shares and windows it is false and strikes nothing.

    Raises:
        ConfigError: values are out of range; all of them are named.
    """

    shares: Mapping[FaultKind, float] = field(default_factory=dict)
    """Share of all requests by fault, 0–1 each and 0–1 in sum; a request meets one fault at most."""
    windows: tuple[Window, ...] = ()
    """Looked at before the shares; the first one that strikes counts."""
    retry_after_seconds: float = 1.0
    """What a 429 asks the client to wait; as a date it is rounded up to the next full second."""
    retry_after_as: Literal["seconds", "date"] = "seconds"
    """Form of the 429's `Retry-After`."""
    slow_seconds: float = 2.0
    """Wait before the head of a `slow` reply, and time in which the body of a `trickle` comes."""
    seed: int = 0
    """Another seed strikes other requests."""

    def __post_init__(self) -> None:
        if problems := [*self._share_problems(), *self._time_problems()]:
            raise ConfigError(problems)

    def __bool__(self) -> bool:
        return bool(self.shares or self.windows)

    def draw(self, digest: str, seen: int, elapsed_seconds: float) -> FaultKind | None:
        """The fault that a request meets, if any.

        Args:
            digest: SHA-256 of the request's body.
            seen: how often the same body came before.
            elapsed_seconds: since the server's start.
        """
        for number, window in enumerate(self.windows):
            inside = window.from_seconds <= elapsed_seconds < window.to_seconds
            if inside and draw_unit(self.seed, "window", number, digest, seen) < window.share:
                return window.fault
        point = draw_unit(self.seed, "share", digest, seen)
        for kind, share in self.shares.items():
            if point < share:
                return kind
            point -= share
        return None

    def _share_problems(self) -> list[str]:
        named = [(f"the share of {kind!r}", share) for kind, share in self.shares.items()]
        named += [(f"the share of the window of {window.fault!r}", window.share) for window in self.windows]
        problems = [f"{name} is {share:g}: give a number from 0 to 1" for name, share in named if not 0 <= share <= 1]
        total = sum(self.shares.values())
        if not problems and total > 1 + 1e-9:
            problems.append(f"the shares sum to {total:g}: lower some until they sum to 1 at most")
        return problems

    def _time_problems(self) -> list[str]:
        problems = [
            f"the window of {each.fault!r} goes from {each.from_seconds:g} to {each.to_seconds:g} s: "
            "begin it at 0 or later and end it after that"
            for each in self.windows
            if not 0 <= each.from_seconds < each.to_seconds
        ]
        for name, seconds in (("retry_after_seconds", self.retry_after_seconds), ("slow_seconds", self.slow_seconds)):
            if not 0 <= seconds < math.inf:
                problems.append(f"{name} is {seconds:g}: give a number of seconds, 0 or more")
        return problems


class FaultScript:
    """Faults at work in one server: remembers what came before and when the server started."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._seen: Counter[str] = Counter()
        self._started = time.monotonic()

    def start(self) -> None:
        """Let the windows' clock begin now."""
        self._started = time.monotonic()

    def next_fault(self, content: bytes) -> FaultKind | None:
        """The fault that this request meets, if any; asked once for each request."""
        digest = sha256(content).hexdigest()
        seen = self._seen[digest]
        self._seen[digest] += 1
        return self.faults.draw(digest, seen, time.monotonic() - self._started)


def draw_unit(*words: object) -> float:
    """A number from 0 up to but not including 1; the same words give the same number in every process."""
    return int.from_bytes(sha256("|".join(map(str, words)).encode()).digest()[:6], "big") / 2**48
