"""Who may send next, and to which address: slots for calls in flight. Belongs to one event loop; not for threads.

How many slots an address has is decided elsewhere: `AdaptiveLimit` moves a place's limit, `Address` closes a place that
fails. Here a free slot is found at the address with the least load, in flight ÷ limit.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Limiter", "Place", "Slot"]


@dataclass(slots=True, eq=False)
class Place:
    """The slots at one address."""

    ceiling: int
    """Most that are ever allowed in flight."""
    limit: int
    """Allowed in flight now; 0 while the address is out of service."""
    in_flight: int = 0


class Slot:
    """The right to one call in flight at one place. Releasing it twice is the same as once."""

    def __init__(self, limiter: "Limiter", place: Place) -> None:
        self.place = place
        self._limiter = limiter
        self._held = True

    def release(self) -> None:
        """Give the right back."""
        if self._held:
            self._held = False
            self.place.in_flight -= 1
            self._limiter.wake()

    async def take_again(self) -> None:
        """After a release: wait for the right once more, maybe at another place."""
        other = await self._limiter.acquire()
        self.place, self._held, other._held = other.place, True, False

    def __enter__(self) -> "Slot":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Limiter:
    """No place has more slots out than its limit; who waits longest is next."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = tuple(places)
        self._waiting: deque[asyncio.Future[Slot]] = deque()

    @property
    def in_flight(self) -> int:
        """Slots that are out, over all places."""
        return sum(place.in_flight for place in self._places)

    async def acquire(self) -> Slot:
        """Wait for a slot."""
        if not self._waiting and (place := self._freest()) is not None:
            return self._hand_out(place)
        turn: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                turn.result().release()
            raise

    def add(self, place: Place) -> None:
        """Hand out the slots of one more place."""
        self._places = (*self._places, place)
        self.wake()

    def remove(self, place: Place) -> None:
        """Hand out no slot of a place any more; those that are out come back as always."""
        self._places = tuple(each for each in self._places if each is not place)

    def lower_to(self, ceiling: int) -> None:
        """Hold every place to the smaller of its present and the given ceiling."""
        for place in self._places:
            place.ceiling = min(place.ceiling, ceiling)
            place.limit = min(place.limit, place.ceiling)

    def wake(self) -> None:
        """Hand out what is free; called when a slot came back or a limit rose."""
        while self._waiting and (place := self._freest()) is not None:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(self._hand_out(place))

    def _hand_out(self, place: Place) -> Slot:
        place.in_flight += 1
        return Slot(self, place)

    def _freest(self) -> Place | None:
        """The place of least load that has room; of equal ones the smallest, so that a probe is never left out."""
        free = [place for place in self._places if place.in_flight < place.limit]
        return min(free, key=lambda place: (place.in_flight / place.limit, place.limit), default=None)
