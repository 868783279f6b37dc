"""How many calls one address takes at once: additive increase, multiplicative decrease, each decrease tried and judged.

Decisions are made on windows of replies to calls that began at the present level, at most one a window. Two things are
trouble: many 429s, and latency far above its baseline, for whole calls and per token alike (long answers alone stretch
only the first, short ones only the second). A decrease is a trial: when the next window shows that it cost answers per
second and did not help, the trouble does not come from our load (a server that refuses a tenth at random, that became
slow for everybody, or that gains by batching); the decrease is then undone and what was seen becomes normal.

Pure: clock and outcomes are arguments, nothing waits. Limits: an address that gives no answers at all moves nothing
here (see `Health`), and limits per minute are the matter of `rates.py`.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Literal

from tapir_core.calls.limiter import Place
from tapir_core.calls.reply_window import LEAST_SAMPLES, ReplyWindow

__all__ = ["AdaptiveLimit", "first_limit"]

DECREASE = 0.7
"""What a decrease leaves of the limit."""
STEPS_TO_CEILING = 32
"""Round trips from nothing to the ceiling by additive increase."""
LIMITED_SHARE = 0.25
"""429s among the replies of a window that are no trouble yet."""
LEAST_LIMITED = 5
STRETCH = 2.0
"""Times its baseline that latency may reach."""
LOST_SPEED = 0.87
"""Below this share of the answers per second before it, a decrease has cost too much."""
HELPED = 0.7
"""Below this share of the 429s before it, a decrease has helped."""
LEVEL_REPLIES = 40
"""Replies that a steady level is judged by, where it is low."""
HEADROOM = 1.4
"""Times the usual trouble that is no trouble yet."""
FORGETTING = 0.98
"""What a window leaves of the trouble that is taken for usual."""


def first_limit(ceiling: int) -> int:
    """Where a new address starts: high enough to lose little time, low enough to see its latency without load."""
    return min(ceiling, max(16, ceiling // 4))


@dataclass(frozen=True, slots=True)
class _Trial:
    """How it was before a decrease."""

    cause: Literal["limited", "slow"]
    limit: float
    fast_until: float
    speed: float
    limited_share: float
    stretch: float


class AdaptiveLimit:
    """Moves a place's limit between 1 and its ceiling."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._limit = float(first_limit(place.ceiling))
        self._fast_until = float(place.ceiling)
        """Below this the limit grows with every answer, doubling in a round trip: it was proven, or never disproven."""
        self._usual_share = 0.0
        """Share of 429s that does not depend on load."""
        self._usual_stretch = 1.0
        """Times the baseline that latency is for other reasons than load."""
        self._baseline: tuple[float, float] | None = None
        """The lowest latency seen, for a call and for a token."""
        self._trial: _Trial | None = None
        self._in_trouble = False
        self._window = self._open_window(None)
        self.apply()

    def apply(self) -> None:
        """Write the limit into the place; its ceiling may have been lowered meanwhile."""
        self._limit = max(1.0, min(self._limit, float(self._place.ceiling)))
        self._place.limit = int(self._limit)

    def answered(self, *, began: float, now: float, tokens: int) -> None:
        """A call that began at ``began`` was answered with ``tokens`` completion tokens."""
        self._window.answers += 1
        if self._window.holds(began):
            self._window.count_latency(now - began, tokens)
        # A limit that is not used says nothing about a higher one; a level on trial has to stay what it is.
        if self._trial is None and 4 * self._place.in_flight >= 3 * self._place.limit:
            step = max(1.0, self._place.ceiling / STEPS_TO_CEILING) / self._limit
            self._limit += 1.0 if self._limit < self._fast_until else step
        self._go_on(now)

    def limited(self, *, began: float, now: float) -> None:
        """A call was refused with 429, and not for a limit per minute."""
        if self._window.holds(began):
            self._window.limited += 1
        self._go_on(now)

    def timed_out(self, *, began: float, now: float) -> None:
        """A call took longer than anybody waits."""
        if self._window.holds(began):
            self._window.count_latency(now - began, 1)
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        window = self._window
        if window.settled is None and window.settling is not None and window.replies >= window.settling:
            window.settled, window.answers = now, 0
        if window.replies >= window.size:
            self._decide(window, now)
            self._window = self._open_window(now)
        self.apply()

    def _open_window(self, began: float | None) -> ReplyWindow:
        limit = int(self._limit)
        if self._trial is None and self._limit < self._fast_until:
            return ReplyWindow(began, size=max(2 * LEAST_SAMPLES, limit), settling=None)
        # Long enough to tell two speeds apart; at a few calls at once that would take too long.
        return ReplyWindow(began, size=max(3 * limit, min(LEVEL_REPLIES, LEAST_SAMPLES * limit)), settling=limit)

    def _decide(self, window: ReplyWindow, now: float) -> None:
        trial, self._trial = self._trial, None
        stretch = self._stretch(window)
        cause = self._cause_of_trouble(window, stretch)
        if trial is not None and _is_refuted(trial, window, stretch, now):
            self._undo(trial)
        elif cause is not None:
            self._decrease(cause, window, stretch, now)
        else:
            self._in_trouble = False
        # What was taken for usual is put to the test again one day.
        self._usual_share *= FORGETTING
        self._usual_stretch = max(1.0, FORGETTING * self._usual_stretch)

    def _stretch(self, window: ReplyWindow) -> float:
        """Times the baseline that latency is, for calls and tokens alike; the baseline follows slowly downwards."""
        latency = window.latency()
        if latency is None:
            return 1.0
        lowest = self._baseline or latency
        stretch = min(seen / low for seen, low in zip(latency, lowest, strict=True))
        per_call, per_token = (min(low, (low + seen) / 2) for seen, low in zip(latency, lowest, strict=True))
        self._baseline = per_call, per_token
        return stretch

    def _cause_of_trouble(self, window: ReplyWindow, stretch: float) -> Literal["limited", "slow"] | None:
        tolerated = max(LIMITED_SHARE, min(0.95, HEADROOM * self._usual_share))
        if window.limited >= LEAST_LIMITED and window.limited_share > tolerated:
            return "limited"
        return "slow" if stretch > max(STRETCH, HEADROOM * self._usual_stretch) else None

    def _decrease(self, cause: Literal["limited", "slow"], window: ReplyWindow, stretch: float, now: float) -> None:
        # A level without answers can be compared with nothing, and a moving one with none; an outage ends in no trial.
        speed = window.speed(now)
        if speed is not None:
            self._trial = _Trial(cause, self._limit, self._fast_until, speed, window.limited_share, stretch)
        if not self._in_trouble:
            self._fast_until = DECREASE * self._limit
        self._in_trouble = True
        self._limit *= DECREASE

    def _undo(self, trial: _Trial) -> None:
        self._limit, self._fast_until, self._in_trouble = trial.limit, trial.fast_until, False
        if trial.cause == "limited":
            self._usual_share = trial.limited_share
        else:
            self._usual_stretch = trial.stretch


def _is_refuted(trial: _Trial, window: ReplyWindow, stretch: float, now: float) -> bool:
    """True when a decrease cost answers; from 429s it must not have brought relief either, since those cost nothing."""
    speed = window.speed(now)
    if speed is None:
        return False
    kept = speed / trial.speed
    if trial.cause == "slow":
        # Calls in flight over latency is the speed too: a second measure of it, with noise of its own.
        return sqrt(kept * DECREASE * trial.stretch / stretch) < LOST_SPEED
    return kept < LOST_SPEED and window.limited_share > HELPED * trial.limited_share
