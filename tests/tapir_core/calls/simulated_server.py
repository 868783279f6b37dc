"""A server and its crowd of callers in simulated time, for the laws of the adaptive limit."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tapir_core.calls.limits import TROUBLES, AddressLimit

Serve = Callable[[float, int, random.Random], tuple[float, bool]]
"""Gets the time, how many calls the server works on, and a generator; gives the seconds until the reply, and whether it
is an answer and no 429."""


@dataclass
class Simulation:
    """Calls without end against one address."""

    serve: Serve
    ceiling: int = 64
    seed: int = 1
    slow_seconds: float | None = None
    now: float = 0.0
    trace: list[tuple[float, int, int]] = field(default_factory=list)
    """Time, limit and accepted calls in the server, at each reply."""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.limit = AddressLimit(self.ceiling, slow_seconds=self.slow_seconds)
        self._events: list[tuple[float, float, bool]] = []
        self._inside = 0

    def run(self, until: float) -> None:
        """Let time pass."""
        self._fill()
        while self._events and self._events[0][0] <= until:
            self.now, began, is_answer = heapq.heappop(self._events)
            self._end(began, is_answer)
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
        while self.limit.in_flight < self.limit.limit:
            seconds, is_answer = self.serve(self.now, self._inside, self.rng)
            self._inside += is_answer
            self.limit.enter(self.now)
            heapq.heappush(self._events, (self.now + seconds, self.now, is_answer))

    def _end(self, began: float, is_answer: bool) -> None:
        self.limit.count(TROUBLES["answer" if is_answer else "rate_limited"], began=began, now=self.now)
        self._inside -= is_answer
        self.limit.leave(began)
        self.trace.append((self.now, self.limit.limit, self._inside))


def seconds_of(rng: random.Random, median: float = 0.2, sigma: float = 0.4) -> float:
    """A lognormal latency."""
    return median * rng.lognormvariate(0.0, sigma)
