"""How much an address is sent: calls at once, requests and tokens a minute, and pauses before another attempt.

How many calls an address takes at once is found out: additive increase, multiplicative decrease. What it allows in a
minute the configuration says, or the headers of its replies. Nothing here sends anything; all but `Limiter` and
`Rates.acquire` is pure, with the clock as an argument. Belongs to one event loop; not for threads.
"""

import asyncio
import random
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from tapir_core.calls.types import FailureKind
from tapir_core.config import CallsConfig

_DECREASE = 0.7
"""What a decrease leaves of the limit."""
_STEPS_TO_CEILING = 32
"""Round trips from nothing to the ceiling by additive increase."""
_TROUBLED_SHARE = 0.5
"""429s among the replies of a window that are no trouble yet: a provider may refuse some whatever the load."""
_TIMEOUT_WEIGHT = 2
"""429s that one time-out counts as: it may be charged."""
_LEAST_REPLIES = 16
_REPLIES_PER_CALL = 3
"""A window has so many replies for each call in flight: refusals come before answers do, and must not outweigh them."""

_BURST_SECONDS = 1.0
_LONGEST_SLEEP_SECONDS = 1.0
"""A reply may show meanwhile that there is room sooner, or later."""

LONGEST_HONOURED_SECONDS = 600.0
"""A longer Retry-After gives the call up: its row stays retryable, the others go on."""

Unit = Literal["requests", "tokens"]
_UNITS: tuple[Unit, ...] = ("requests", "tokens")


def first_limit(ceiling: int) -> int:
    """Where a new address starts: high enough to lose little time, low enough not to run into a small one."""
    return min(ceiling, max(16, ceiling // 4))


class AddressLimit:
    """How many calls one address takes at once.

    The limit moves between 1 and the ceiling: up with the answers while it is used, down when half of a window of
    replies was 429s, or a quarter was time-outs; only calls count that began since it last went down.
    """

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        """Most that are ever allowed in flight."""
        self.limit = 0
        """Allowed in flight now; 0 while the address is out of service."""
        self.in_flight = 0
        self._level = float(first_limit(ceiling))
        self._fast_until = float(ceiling)
        """Below this the limit doubles in a round trip: it was proven, or never disproven."""
        self._in_trouble = False
        self._since = float("-inf")
        self._replies = self._troubles = 0
        self.apply()

    def apply(self) -> None:
        """Be in service with the limit that was found; the ceiling may have been lowered meanwhile."""
        self._level = max(1.0, min(self._level, float(self.ceiling)))
        self.limit = int(self._level)

    def answered(self, *, began: float, now: float) -> None:
        """A call that began at ``began`` was answered."""
        # A limit that is not used says nothing about a higher one.
        if 4 * self.in_flight >= 3 * self.limit:
            step = max(1.0, self.ceiling / _STEPS_TO_CEILING) / self._level
            self._level += 1.0 if self._level < self._fast_until else step
        self._count(0, began, now)

    def troubled(self, *, timed_out: bool, began: float, now: float) -> None:
        """A call took longer than anybody waits, or was refused with 429 and not for a limit per minute."""
        self._count(_TIMEOUT_WEIGHT if timed_out else 1, began, now)

    def _count(self, trouble: int, began: float, now: float) -> None:
        if began >= self._since:
            self._replies += 1
            self._troubles += trouble
        if self._replies >= max(_LEAST_REPLIES, _REPLIES_PER_CALL * self.limit):
            self._decide(now)
        self.apply()

    def _decide(self, now: float) -> None:
        was_in_trouble, self._in_trouble = self._in_trouble, self._troubles > _TROUBLED_SHARE * self._replies
        if self._in_trouble:
            if not was_in_trouble:
                self._fast_until = _DECREASE * self._level
            self._level *= _DECREASE
            self._since = now
        self._replies = self._troubles = 0


class Slot:
    """The right to one call in flight at one address. Releasing it twice is the same as once."""

    def __init__(self, limiter: "Limiter", at: AddressLimit) -> None:
        self.at = at
        self._limiter = limiter
        self._held = True

    def release(self) -> None:
        """Give the right back."""
        if self._held:
            self._held = False
            self.at.in_flight -= 1
            self._limiter.wake()

    async def take_again(self) -> None:
        """After a release: wait for the right once more, maybe at another address."""
        other = await self._limiter.acquire()
        self.at, self._held, other._held = other.at, True, False


class Limiter:
    """No address has more slots out than its limit; who waits longest is next, at the address of least load."""

    def __init__(self, addresses: Sequence[AddressLimit] = ()) -> None:
        self._addresses = list(addresses)
        self._waiting: deque[asyncio.Future[Slot]] = deque()

    @property
    def in_flight(self) -> int:
        """Slots that are out, over all addresses."""
        return sum(each.in_flight for each in self._addresses)

    async def acquire(self) -> Slot:
        """Wait for a slot."""
        if not self._waiting and (free := self._freest()) is not None:
            return self._hand_out(free)
        turn: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                turn.result().release()
            raise

    def add(self, address: AddressLimit) -> None:
        """Hand out the slots of one more address."""
        self._addresses.append(address)
        self.wake()

    def remove(self, address: AddressLimit) -> None:
        """Hand out no slot of an address any more; those that are out come back as always."""
        self._addresses.remove(address)

    def lower_to(self, ceiling: int) -> None:
        """Hold every address to the smaller of its present and the given ceiling."""
        for each in self._addresses:
            each.ceiling = min(each.ceiling, ceiling)
            each.limit = min(each.limit, each.ceiling)

    def wake(self) -> None:
        """Hand out what is free; called when a slot came back or a limit rose."""
        while self._waiting and (free := self._freest()) is not None:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(self._hand_out(free))

    def _hand_out(self, address: AddressLimit) -> Slot:
        address.in_flight += 1
        return Slot(self, address)

    def _freest(self) -> AddressLimit | None:
        """The address of least load that has room; of equal ones the smallest, so that a probe is never left out."""
        free = [each for each in self._addresses if each.in_flight < each.limit]
        return min(free, key=lambda each: (each.in_flight / each.limit, each.limit), default=None)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One limit per minute as the headers of a reply showed it."""

    unit: Unit
    remaining: float
    """Requests or tokens that may still be sent."""
    limit: float | None = None
    """Requests or tokens when nothing is used."""
    reset_seconds: float | None = None
    """Time until nothing is used."""

    @property
    def per_second(self) -> float | None:
        """How fast what is used comes back; nothing where too little is shown, or nothing is used."""
        if not self.limit or not self.reset_seconds or self.remaining >= self.limit:
            return None
        return (self.limit - self.remaining) / self.reset_seconds


class Bucket:
    """Fills at ``per_second`` up to ``capacity``."""

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

    def show(self, limit: RateLimit, per_second: float, *, sent: float, taken_then: float, now: float) -> None:
        """Take over what a reply to a request shows that was sent at ``sent``, with ``taken_then`` taken.

        What a provider has left at that time fills up until its reset; what we took since is ours to subtract.
        """
        if sent < self._shown_at:
            return
        self._shown_at, self._capacity, self._per_second = sent, limit.limit or 0.0, per_second
        filled = min(self._capacity, limit.remaining + (now - sent) * per_second)
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
    """The limits per minute of one address for one model and key.

    What the configuration sets and what headers show both hold. A bucket that was set allows one second's worth at
    once, so that no minute sees more than the limit and that second; a learned one starts from what is left.
    """

    def __init__(self, *, requests_per_minute: float | None, tokens_per_minute: float | None, now: float) -> None:
        asked: dict[Unit, float | None] = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._set = {
            unit: Bucket(capacity=max(1.0, _BURST_SECONDS * per_minute / 60), per_second=per_minute / 60, now=now)
            for unit, per_minute in asked.items()
            if per_minute
        }
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
                await asyncio.sleep(min(delay, _LONGEST_SLEEP_SECONDS))
            return self.take(tokens, clock())

    def delay(self, tokens: int, now: float) -> float:
        """Seconds until a request with at most ``tokens`` may be sent."""
        waits = (bucket.delay(amount, now) for bucket, amount in self._amounts(tokens))
        return max(0.0, self._paused_until - now, *waits)

    def take(self, tokens: int, now: float) -> Permit:
        """Send a request now."""
        for bucket, amount in self._amounts(tokens):
            bucket.take(amount, now)
        return Permit(tokens, now, {unit: bucket.taken for unit, bucket in self._learned.items()})

    def settle(self, permit: Permit, *, used_tokens: int, limits: tuple[RateLimit, ...], now: float) -> None:
        """A reply came: give back the tokens that were not used, and learn the limits that it shows."""
        if "tokens" in self._set:
            self._set["tokens"].take(used_tokens - permit.tokens, now)
        for shown in limits:
            if (per_second := shown.per_second) is None:
                continue
            if shown.unit not in self._learned:
                self._learned[shown.unit] = Bucket(capacity=0.0, per_second=per_second, now=now)
            taken_then = permit.taken.get(shown.unit, 0.0)
            self._learned[shown.unit].show(shown, per_second, sent=permit.sent, taken_then=taken_then, now=now)

    def pause_until(self, time: float) -> None:
        """Send nothing before ``time``."""
        self._paused_until = max(self._paused_until, time)

    def _amounts(self, tokens: int) -> Iterator[tuple[Bucket, float]]:
        """Every bucket, with what a request of so many tokens takes from it."""
        for buckets in (self._set, self._learned):
            for unit, bucket in buckets.items():
                yield bucket, 1.0 if unit == "requests" else float(tokens)


def pause_before_retry(
    config: CallsConfig,
    *,
    kind: FailureKind,
    failed: Mapping[FailureKind, int],
    retry_after_seconds: float | None,
    rng: random.Random,
) -> float | None:
    """Seconds to wait after an attempt failed as ``kind``, or nothing when the call is given up.

    Exponential with full jitter; a Retry-After is waited in full, with jitter on top so that its rows do not all come
    back in the same moment. ``failed`` counts the call's failed attempts by kind, this one included. Kinds that
    `calls.retries` does not name are never tried again at once: a wrong key or a reached cap stays what it is until
    someone acts, a refusal or a prompt that is too long for good.
    """
    attempt = sum(failed.values())
    if attempt >= config.max_attempts or failed[kind] >= getattr(config.retries, kind, 0):
        return None
    if retry_after_seconds is not None:
        if retry_after_seconds > LONGEST_HONOURED_SECONDS:
            return None
        return retry_after_seconds + rng.uniform(0, config.backoff_seconds)
    longest = min(config.max_backoff_seconds, config.backoff_seconds * 2 ** min(attempt - 1, 60))
    return rng.uniform(0, longest)


def read_rate_limits(headers: Mapping[str, str], *, now: datetime) -> tuple[RateLimit, ...]:
    """The limits per minute that ``headers`` (looked up without regard to case, or lower-case) show.

    At most one a unit. A header that cannot be read counts as absent.
    """
    found = []
    for unit, names in _HEADERS.items():
        for remaining_name, limit_name, reset_name in names:
            remaining = read_number(headers.get(remaining_name))
            if remaining is not None:
                reset = read_seconds(headers.get(reset_name, ""), datetime.fromisoformat, now=now)
                found.append(RateLimit(unit, remaining, read_number(headers.get(limit_name)), reset))
                break
    return tuple(found)


def read_number(text: str | None) -> float | None:
    """A finite number that is not negative, or nothing."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def read_seconds(text: str, read_date: Callable[[str], datetime], *, now: datetime) -> float | None:
    """Seconds of a plain number, of a duration such as ``6m0s`` or ``120ms``, or until a date; of other text None."""
    text = text.strip()
    seconds = read_number(text)
    if seconds is not None:
        return seconds
    if _DURATION.fullmatch(text):
        return sum(float(amount) * _SECONDS[unit] for amount, unit in _PART.findall(text))
    try:
        date = read_date(text)
    except ValueError:
        return None
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())


_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")

# OpenAI's headers, which most others follow, and Anthropic's: of each unit what remains, the limit and its reset.
_FAMILIES = ("x-ratelimit-{field}-{unit}", "anthropic-ratelimit-{unit}-{field}")
_HEADERS = {
    unit: [tuple(form.format(field=each, unit=unit) for each in ("remaining", "limit", "reset")) for form in _FAMILIES]
    for unit in _UNITS
}
