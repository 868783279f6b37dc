"""Requests and tokens per minute: token buckets, set by the configuration and learned from response headers.

Both hold where both are known. A bucket that was set allows one second's worth at once, so that no minute sees more
than the limit and that second; a learned one starts from what the provider says is left. Belongs to one event loop.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from tapir_core.calls.rate_headers import RateLimit, Unit

__all__ = ["Bucket", "Permit", "Rates"]

BURST_SECONDS = 1.0
LONGEST_SLEEP_SECONDS = 1.0
"""A reply may show meanwhile that there is room sooner, or later."""


class Bucket:
    """Fills at ``per_second`` up to ``capacity``. Pure: the clock is an argument."""

    def __init__(self, *, capacity: float, per_second: float, now: float) -> None:
        self.taken = 0.0
        """All that was ever taken."""
        self._capacity = capacity
        self._per_second = per_second
        self._level = capacity
        self._at = now
        self._shown_at = float("-inf")

    def delay(self, amount: float, now: float) -> float:
        """Seconds until ``amount`` may be taken; more than the bucket holds waits for a full one and goes into debt."""
        lacking = min(amount, self._capacity) - self._level_at(now)
        # Below a nanosecond of filling is rounding, and waiting for it would never end.
        return lacking / self._per_second if lacking > 1e-9 * self._per_second else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take ``amount``, or with a negative one give back what was not needed."""
        self._level, self._at = self._level_at(now) - amount, now
        self.taken += amount

    def show(self, limit: RateLimit, *, sent: float, taken_then: float, now: float) -> None:
        """Take over what a reply to a request shows that was sent at ``sent``, with ``taken_then`` taken.

        What a provider has left at that time fills up until its reset; what we took since is ours to subtract.
        """
        per_second = limit.per_second
        if sent < self._shown_at or limit.limit is None or per_second is None:
            return
        self._shown_at, self._capacity, self._per_second = sent, limit.limit, per_second
        filled = min(self._capacity, limit.remaining + (now - sent) * self._per_second)
        self._level, self._at = filled - (self.taken - taken_then), now

    def _level_at(self, now: float) -> float:
        return min(self._capacity, self._level + (now - self._at) * self._per_second)


@dataclass(frozen=True, slots=True)
class Permit:
    """One request that was let through."""

    tokens: int
    """Reserved for it."""
    sent: float
    taken: dict[Unit, float]
    """All that its learned buckets had given when it was sent."""


class Rates:
    """The limits per minute of one address for one model and key."""

    def __init__(self, *, requests_per_minute: float | None, tokens_per_minute: float | None, now: float) -> None:
        asked: dict[Unit, float | None] = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._set = {unit: _set_bucket(per_minute, now) for unit, per_minute in asked.items() if per_minute}
        self._learned: dict[Unit, Bucket] = {}
        self._paused_until = float("-inf")
        self._turn = asyncio.Lock()

    async def acquire(self, tokens: int) -> Permit:
        """Wait until a request with at most ``tokens`` may be sent; first come, first served."""
        clock = asyncio.get_running_loop().time
        if not self._turn.locked() and not self.delay(tokens, clock()):
            return self.take(tokens, clock())
        async with self._turn:
            while delay := self.delay(tokens, clock()):
                await asyncio.sleep(min(delay, LONGEST_SLEEP_SECONDS))
            return self.take(tokens, clock())

    def delay(self, tokens: int, now: float) -> float:
        """Seconds until a request with at most ``tokens`` may be sent."""
        waits = (bucket.delay(_amount(unit, tokens), now) for unit, bucket in self._buckets())
        return max(0.0, self._paused_until - now, *waits)

    def take(self, tokens: int, now: float) -> Permit:
        """Send a request now."""
        for unit, bucket in self._buckets():
            bucket.take(_amount(unit, tokens), now)
        return Permit(tokens, now, {unit: bucket.taken for unit, bucket in self._learned.items()})

    def settle(self, permit: Permit, *, used_tokens: int, limits: tuple[RateLimit, ...], now: float) -> None:
        """A reply came: give back the tokens that were not used, and learn the limits that it shows."""
        if "tokens" in self._set:
            self._set["tokens"].take(used_tokens - permit.tokens, now)
        for limit in limits:
            per_second = limit.per_second
            if limit.limit is None or per_second is None:
                continue
            if limit.unit not in self._learned:
                self._learned[limit.unit] = Bucket(capacity=limit.limit, per_second=per_second, now=now)
            taken_then = permit.taken.get(limit.unit, 0.0)
            self._learned[limit.unit].show(limit, sent=permit.sent, taken_then=taken_then, now=now)

    def pause_until(self, time: float) -> None:
        """Send nothing before ``time``."""
        self._paused_until = max(self._paused_until, time)

    def _buckets(self) -> Iterator[tuple[Unit, Bucket]]:
        yield from self._set.items()
        yield from self._learned.items()


def _amount(unit: Unit, tokens: int) -> float:
    return 1.0 if unit == "requests" else float(tokens)


def _set_bucket(per_minute: float, now: float) -> Bucket:
    per_second = per_minute / 60
    return Bucket(capacity=max(1.0, per_second * BURST_SECONDS), per_second=per_second, now=now)
