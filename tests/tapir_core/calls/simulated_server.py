"""A server and its crowd of callers in simulated time, for the laws of the adaptive limit."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tapir_core.calls.adaptive import AdaptiveLimit
from tapir_core.calls.limiter import Place

Serve = Callable[[float, int, random.Random], tuple[float, int | None]]
"""Gets the time, how many calls the server works on, and a generator; gives the seconds until the reply, and the
reply's tokens or nothing for a 429."""


@dataclass
class Simulation:
    """Calls without end against one address."""

    serve: Serve
    ceiling: int = 64
    seed: int = 1
    now: float = 0.0
    answered: int = 0
    trace: list[tuple[float, int, int]] = field(default_factory=list)
    """Time, limit and accepted calls in the server, at each reply."""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.place = Place(self.ceiling, self.ceiling)
        self.limit = AdaptiveLimit(self.place)
        self._events: list[tuple[float, int, float, int | None]] = []
        self._order = itertools.count()
        self._inside = 0

    def run(self, until: float) -> None:
        """Let time pass."""
        self._fill()
        while self._events and self._events[0][0] <= until:
            self.now, _, began, tokens = heapq.heappop(self._events)
            self._end(began, tokens)
            self._fill()
        self.now = until

    def mean_limit(self, *, since: float) -> float:
        """Mean of the limit over time."""
        return self._mean(since, 1)

    def mean_inside(self, *, since: float) -> float:
        """Mean of the accepted calls in flight over time."""
        return self._mean(since, 2)

    def lowest_limit(self, *, since: float) -> int:
        return min(limit for at, limit, _ in self.trace if at >= since)

    def _mean(self, since: float, column: int) -> float:
        points = [point for point in self.trace if point[0] >= since]
        area = sum((later[0] - earlier[0]) * earlier[column] for earlier, later in itertools.pairwise(points))
        return area / (points[-1][0] - points[0][0])

    def _fill(self) -> None:
        while self.place.in_flight < self.place.limit:
            seconds, tokens = self.serve(self.now, self._inside, self.rng)
            self.place.in_flight += 1
            self._inside += tokens is not None
            heapq.heappush(self._events, (self.now + seconds, next(self._order), self.now, tokens))

    def _end(self, began: float, tokens: int | None) -> None:
        if tokens is None:
            self.limit.limited(began=began, now=self.now)
        else:
            self.limit.answered(began=began, now=self.now, tokens=tokens)
            self.answered += 1
            self._inside -= 1
        self.place.in_flight -= 1
        self.trace.append((self.now, self.place.limit, self._inside))


def seconds_of(rng: random.Random, median: float = 0.2, sigma: float = 0.4) -> float:
    """A lognormal latency."""
    return median * rng.lognormvariate(0.0, sigma)
