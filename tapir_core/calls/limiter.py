"""How many calls to one endpoint are in flight at once. Belongs to one event loop; not for threads.

The limit is fixed: an adaptive one takes this class's place behind the same calls.
"""

import asyncio
from collections import deque

__all__ = ["Limiter", "Slot"]


class Slot:
    """The right to one call in flight. Releasing it twice is the same as once."""

    def __init__(self, limiter: "Limiter") -> None:
        self._limiter: Limiter | None = limiter

    def release(self) -> None:
        """Give the right back."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter._give_back()

    def __enter__(self) -> "Slot":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Limiter:
    """At most ``limit`` slots out at a time; who waits longest is next."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> Slot:
        """Wait for a slot."""
        if self.in_flight < self.limit and not self._waiting:
            self.in_flight += 1
            return Slot(self)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back()
            raise
        return Slot(self)

    def lower_to(self, limit: int) -> None:
        """Hold the smaller of the present and the given limit."""
        self.limit = min(self.limit, limit)

    def _give_back(self) -> None:
        self.in_flight -= 1
        while self._waiting and self.in_flight < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
