"""How much an address is sent: calls at once, requests and tokens a minute, and pauses before another attempt.

How many calls an address takes at once is found out: additive increase, multiplicative decrease. What it allows in a
minute the configuration says, or the headers of its replies. Nothing here sends anything; all but `Rates.acquire` is
pure, with the clock as an argument. Belongs to one event loop; not for threads.
"""

import asyncio
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from tapir_core.calls.types import FailureKind
from tapir_core.config import CallsConfig

_DECREASE = 0.8
"""What a decrease leaves of the limit."""
_STEPS_TO_CEILING = 32
"""Round trips from nothing to the ceiling by additive increase."""
_TROUBLED_SHARE = 0.5
"""Trouble in the mean of the last replies that is none yet: a provider may refuse some whatever the load."""
TROUBLES: Mapping[FailureKind | Literal["answer"], int] = {"answer": 0, "rate_limited": 1, "timeout": 2}
"""What replies say about the load; a time-out counts twice, for it may be charged."""
_FEW, _SOON_SHARE = 4, 0.25
"""Of an address that may be slow: calls at once to begin with, and how much of the longest wait an answer may take for
more to be tried: while one is under way, as many begin again as it saw beside it."""
_LEAST_REPLIES = 16
_REPLIES_PER_CALL = 3
"""The mean is over so many for each call in flight: refusals come before answers do, and must not outweigh them."""

_LONGEST_SLEEP_SECONDS = 1.0
"""A reply may show meanwhile that there is room sooner, or later."""

LONGEST_HONOURED_SECONDS = 600.0
"""A longer Retry-After gives the call up: its row stays retryable, the others go on."""

Unit = Literal["requests", "tokens"]


class AddressLimit:
    """How many calls one address takes at once.

    The limit moves between 1 and the ceiling: up with the answers while it is used and they come soon enough, down when
    more than half of the last replies were 429s, or a quarter time-outs; only calls count that began since it last went
    down.
    """

    def __init__(self, ceiling: int, *, slow_seconds: float | None = None) -> None:
        """Of an address that may be one processor ``slow_seconds`` is the longest wait for a reply: it begins low."""
        self.ceiling = ceiling
        """Most that are ever allowed in flight; may be lowered."""
        self.in_flight = 0
        # High enough to lose little time, low enough not to run into a small limit.
        self._level = float(min(ceiling, _FEW if slow_seconds else max(16, ceiling // 2)))
        self._soon_seconds = slow_seconds * _SOON_SHARE if slow_seconds else float("inf")
        """An answer that takes longer is no reason for more at once."""
        self._fast_until = float(ceiling)
        """Below this the limit doubles in a round trip: it was proven, or never disproven."""
        self._trouble = 0.0
        """Its mean over the last replies."""
        self._answered = True
        """Whether an answer came since the limit went down."""
        self._since = float("-inf")

    @property
    def limit(self) -> int:
        """Allowed in flight now."""
        return int(min(self._level, self.ceiling))

    def count(self, trouble: int, *, began: float, now: float) -> None:
        """A call that began at ``began`` came back with so much trouble (`TROUBLES`)."""
        # A limit that is not used says nothing about a higher one.
        if not trouble and 4 * self.in_flight >= 3 * self.limit and now - began <= self._soon_seconds:
            step = max(1.0, self.ceiling / _STEPS_TO_CEILING) / self._level
            self._level += 1.0 if self._level < self._fast_until else step
        if began >= self._since:
            self._answered |= not trouble
            self._trouble += (trouble - self._trouble) / max(_LEAST_REPLIES, _REPLIES_PER_CALL * self.limit)
        if self._trouble > _TROUBLED_SHARE:
            # What falls and falls while nothing is answered says how long an outage is, not how much is taken.
            if self._answered:
                self._fast_until = _DECREASE * self._level
            self._level *= _DECREASE
            self._since, self._trouble, self._answered = now, 0.0, False
        self._level = max(1.0, min(self._level, float(self.ceiling)))


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One limit per minute as the headers of a reply showed it."""

    unit: Unit
    remaining: float
    """Requests or tokens that may still be sent."""
    limit: float = 0.0
    """Requests or tokens when nothing is used; 0 where it is not shown."""
    reset_seconds: float = 0.0
    """Time until nothing is used; 0 where it is not shown."""

    @property
    def per_second(self) -> float:
        """How fast what is used comes back; 0 where too little is shown, or nothing is used."""
        return max(0.0, self.limit - self.remaining) / self.reset_seconds if self.reset_seconds else 0.0


class Bucket:
    """Fills at ``per_second`` up to ``capacity``; kept as the time when it is full. By itself it holds nobody back."""

    def __init__(self, per_second: float = float("inf"), capacity: float = 0.0) -> None:
        self.taken = 0.0
        """All that was ever taken."""
        self._per_second, self._capacity = per_second, capacity
        self._full_at = self._shown_at = float("-inf")

    def delay(self, amount: float, now: float) -> float:
        """Seconds until ``amount`` may be taken; more than the bucket holds waits for a full one and goes into debt."""
        wait = self._full_at - now - (self._capacity - min(amount, self._capacity)) / self._per_second
        # Below a nanosecond is rounding, and waiting for it would never end.
        return wait if wait > 1e-9 else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take ``amount``, or with a negative one give back what was not needed."""
        self._full_at = max(self._full_at, now) + amount / self._per_second
        self.taken += amount

    def show(self, shown: RateLimit, *, sent: float, taken_then: float, now: float) -> None:
        """Take over what a reply to a request shows that was sent at ``sent``, with ``taken_then`` taken.

        What a provider has left at that time fills up until its reset; what we took since is ours to subtract.
        """
        if shown.per_second and sent >= self._shown_at:
            self._shown_at, self._capacity, self._per_second = sent, shown.limit, shown.per_second
            self._full_at = max(now, sent + shown.reset_seconds) + (self.taken - taken_then) / self._per_second


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

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        asked: dict[Unit, float | None] = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._set = {unit: Bucket(each / 60, max(1.0, each / 60)) for unit, each in asked.items() if each}
        self._learned: dict[Unit, Bucket] = {}
        self._paused_until = float("-inf")
        self._turn = asyncio.Lock()

    async def acquire(self, tokens: int) -> Permit:
        """Wait until a request with at most ``tokens`` may be sent; first come, first served."""
        clock = asyncio.get_running_loop().time
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

    def finish(
        self,
        permit: Permit,
        *,
        used_tokens: int,
        now: float,
        limits: Sequence[RateLimit] = (),
        pause_seconds: float = 0.0,
    ) -> None:
        """A request has ended: give back the tokens that were not used, learn what its reply shows.

        Nothing more is sent for ``pause_seconds``, unless they are more than anybody waits.
        """
        if pause_seconds <= LONGEST_HONOURED_SECONDS:
            self._paused_until = max(self._paused_until, now + pause_seconds)
        if "tokens" in self._set:
            self._set["tokens"].take(used_tokens - permit.tokens, now)
        for shown in limits:
            taken_then = permit.taken.get(shown.unit, 0.0)
            self._learned.setdefault(shown.unit, Bucket()).show(shown, sent=permit.sent, taken_then=taken_then, now=now)

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
    too_often = attempt >= config.max_attempts or failed[kind] >= getattr(config.retries, kind, 0)
    if too_often or (retry_after_seconds or 0.0) > LONGEST_HONOURED_SECONDS:
        return None
    if retry_after_seconds is not None:
        return retry_after_seconds + rng.uniform(0, config.backoff_seconds)
    longest = min(config.max_backoff_seconds, config.backoff_seconds * 2 ** min(attempt - 1, 60))
    return rng.uniform(0, longest)


def read_rate_limits(headers: Mapping[str, str], *, now: Callable[[], datetime]) -> tuple[RateLimit, ...]:
    """The limits per minute that ``headers`` (looked up without regard to case, or lower-case) show.

    At most one a unit. A header that cannot be read counts as absent.
    """
    found: dict[Unit, RateLimit] = {}
    for unit, remaining_name, limit_name, reset_name in _HEADERS:
        remaining = read_number(headers.get(remaining_name))
        if remaining is not None and unit not in found:
            reset = read_seconds(headers.get(reset_name, ""), datetime.fromisoformat, now=now)
            found[unit] = RateLimit(unit, remaining, read_number(headers.get(limit_name)) or 0.0, reset or 0.0)
    return tuple(found.values())


def read_number(text: str | None) -> float | None:
    """A finite number that is not negative, or nothing."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def read_seconds(text: str, read_date: Callable[[str], datetime], *, now: Callable[[], datetime]) -> float | None:
    """Seconds of a plain number, of a duration such as ``6m0s`` or ``120ms``, or until a date; of other text None."""
    text = text.strip()
    seconds = read_number(text)
    if seconds is not None:
        return seconds
    if _DURATION.fullmatch(text):
        return sum(float(amount) * _SECONDS[unit] for amount, unit in _PART.findall(text))
    try:
        date = read_date(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now()).total_seconds())


_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")

# OpenAI's headers, which most others follow, and Anthropic's: of each unit what remains, the limit and its reset.
_HEADERS: tuple[tuple[Unit, str, str, str], ...] = (
    ("requests", "x-ratelimit-remaining-requests", "x-ratelimit-limit-requests", "x-ratelimit-reset-requests"),
    ("tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-limit-tokens", "x-ratelimit-reset-tokens"),
    (
        "requests",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-reset",
    ),
    (
        "tokens",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-reset",
    ),
)
