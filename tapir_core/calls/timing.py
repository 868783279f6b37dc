"""How long answers took: measured during calls, kept as counts of a stage, and read again for reports.

Counts of shards are added up, so a stage keeps sums and a histogram: quantiles cannot be added. The bins are 9 % wide,
so a quantile is right to 5 %. Calls in flight at the same time share each instant equally: the shares of some answers
add up to the time in which an endpoint worked on them, however much their calls overlapped.

Limits: the time of an answer is that of its successful attempt, as this machine saw it. Waiting for a turn and earlier
attempts are left out. Answers from the store or a Batch API are not timed.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

PREFIX = "timed: "
"""Beginning of the names of these counts. They depend on the clock, and no row does."""

_TOKENS, _CALL, _SHARE = (f"{PREFIX}{name}" for name in ("tokens", "call seconds", "share seconds"))
_UP_TO, _BY = f"{PREFIX}up to ", f"{PREFIX}by "
_BINS = 8
"""Bins of the histogram from one time to its double."""


class Timing(NamedTuple):
    """The time of one answer."""

    seconds: float
    """From sending the request to receiving the reply."""
    share_seconds: float
    """Its share of that time among all calls in flight."""


class Stopwatch:
    """Times the calls to one endpoint. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds."""
        self._clock = clock
        self._in_flight = 0
        self._seen = self._share = 0.0
        """The clock, and the share of a call that was in flight from the beginning."""

    def begin(self) -> Timing:
        """Start a call; returns what `end` needs."""
        self._look()
        self._in_flight += 1
        return Timing(self._seen, self._share)

    def end(self, begun: Timing) -> Timing:
        """End a call; returns its time."""
        self._look()
        self._in_flight -= 1
        return Timing(self._seen - begun.seconds, self._share - begun.share_seconds)

    def _look(self) -> None:
        now = self._clock()
        if self._in_flight:
            self._share += (now - self._seen) / self._in_flight
        self._seen = now


def timing_counts(answers: Iterable[tuple[int, Timing]], by: str = "") -> dict[str, float]:
    """The counts of a stage for its timed answers, each with its tokens; ``by`` names the engine, if known."""
    timed = list(answers)
    if not timed:
        return {}
    bins = Counter(math.ceil(_BINS * math.log2(max(timing.seconds, 1e-6))) for _, timing in timed)
    return {
        _TOKENS: sum(tokens for tokens, _ in timed),
        _CALL: round(math.fsum(timing.seconds for _, timing in timed), 6),
        _SHARE: round(math.fsum(timing.share_seconds for _, timing in timed), 6),
        **({_BY + by: len(timed)} if by else {}),
        **{f"{_UP_TO}{2 ** (place / _BINS):.4g} s": bins[place] for place in sorted(bins)},
    }


class Speed(NamedTuple):
    """How fast the answers of some stages came."""

    answers: int
    by: tuple[str, ...]
    """The engines, if known; the one with most answers first."""
    p50_seconds: float
    """Of an answer: half of them took no longer."""
    p95_seconds: float
    tokens_per_second: float | None
    """Output tokens a second of all calls together, while any is in flight."""
    in_flight: float | None
    """Calls in flight at once, on average."""


def speed_of(counts: Iterable[Mapping[str, float]]) -> Speed | None:
    """Speed by the counts of some manifests; None if no answer was timed."""
    added = sum(map(Counter[str], counts), Counter[str]())
    told = {name.removeprefix(_BY): n for name, n in added.items() if name.startswith(_BY)}
    bins = sorted((float(name[len(_UP_TO) : -2]), int(n)) for name, n in added.items() if name.startswith(_UP_TO))
    if not bins:
        return None
    ends, reached = [end for end, _ in bins], [*accumulate(n for _, n in bins)]
    # The middle of the bin that a quantile lies in.
    quantiles = (ends[bisect_left(reached, share * reached[-1])] / 2 ** (0.5 / _BINS) for share in (0.5, 0.95))
    rates = (added[name] / added[_SHARE] if added[_SHARE] else None for name in (_TOKENS, _CALL))
    return Speed(reached[-1], tuple(sorted(told, key=lambda name: -told[name])), *quantiles, *rates)
