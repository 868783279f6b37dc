"""How much an address is sent: calls at once, requests and tokens a minute, and pauses before a retry.

The number of calls at once adapts: additive increase, multiplicative decrease. Limits per minute come from the
configuration or from the headers of replies. Nothing here sends anything; everything but `Rates.acquire` is pure, with
the clock as an argument. Belongs to one event loop; not for threads.
"""

import asyncio
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from tapir_core.calls.types import FailureKind
from tapir_core.config import CallsConfig

_DECREASE = 0.8
"""Factor of a decrease."""
_STEPS_TO_CEILING = 32
"""Round trips of additive increase from 0 to the ceiling."""
_TROUBLED_SHARE = 0.5
"""Mean trouble of the last replies up to which the limit stays: some providers refuse a few at any load."""
TROUBLES: Mapping[FailureKind | Literal["answer"], int] = {"answer": 0, "rate_limited": 1, "timeout": 2}
"""What replies say about the load. A time-out counts twice, because it may be charged."""
_FEW, _SOON_SHARE = 4, 0.25
"""Of an address that may be slow: calls at once to begin with, and how much of the longest wait a call may have been
under way for more to be tried: until it ends, as many begin again as it saw beside it."""
_LEAST_REPLIES = 16
_REPLIES_PER_CALL = 3
"""The mean is over so many replies for each call in flight: refusals come sooner than answers, and must not
outweigh them."""

_LONGEST_SLEEP_SECONDS = 1.0
"""A reply may show meanwhile that there is room sooner or later."""

LONGEST_HONOURED_SECONDS = 600.0
"""With a longer Retry-After the call is given up: its row stays retryable, the others go on."""

Unit = Literal["requests", "tokens"]


class AddressLimit:
    """How many calls one address takes at once.

    The limit moves between 1 and the ceiling: up with the answers while it is used, down when more than half of the
    last replies were 429s, or a quarter time-outs; only calls count that began since it last went down. Of an address
    that may be slow short answers say little about long ones: its limit goes up while nothing in flight waits long, at
    most to the double until the slowest have ended, and down at the first time-out.
    """

    def __init__(self, ceiling: int, *, slow_seconds: float | None = None) -> None:
        """``slow_seconds`` is the longest wait for a reply of an address that may be slow: its limit begins low."""
        self.ceiling = ceiling
        """Most that are ever allowed in flight; may be lowered."""
        self._began: list[float] = []
        """When each call in flight began, the oldest first."""
        # High enough to lose little time, low enough not to run into a small limit.
        self._level = float(min(ceiling, _FEW if slow_seconds else max(16, ceiling // 2)))
        self._is_slow = slow_seconds is not None
        self._soon_seconds = slow_seconds * _SOON_SHARE if slow_seconds else float("inf")
        """While a call in flight has waited longer, no answer is a reason for more at once."""
        self._highest, self._seen_since = (2 * self._level if slow_seconds else float("inf")), float("-inf")
        """Of a slow address: twice the limit at the time when all calls under an earlier one had ended; that time."""
        self._fast_until = float(ceiling)
        """Below this level the limit doubles in a round trip: it was proven, or never disproven."""
        self._trouble = 0.0
        """Mean trouble of the last replies."""
        self._answered = True
        """Whether an answer came since the last fall."""
        self._since = float("-inf")

    @property
    def limit(self) -> int:
        """Calls allowed in flight now."""
        return int(min(self._level, self.ceiling))

    @property
    def in_flight(self) -> int:
        """Calls that entered and did not leave."""
        return len(self._began)

    def enter(self, now: float) -> None:
        """A call begins."""
        self._began.append(now)

    def leave(self, began: float) -> None:
        """A call that entered at ``began`` has ended."""
        self._began.remove(began)

    def count(self, trouble: int, *, began: float, now: float) -> None:
        """A call that began at ``began``, and is still in flight, came back with so much trouble (`TROUBLES`)."""
        oldest = self._began[0] if self._began else began
        if self._is_slow and oldest >= self._seen_since:
            self._highest, self._seen_since = 2 * self._level, now
        # A limit that is not used says nothing about a higher one.
        if not trouble and 4 * self.in_flight >= 3 * self.limit and now - oldest <= self._soon_seconds:
            step = max(1.0, self.ceiling / _STEPS_TO_CEILING) / self._level
            self._level = max(
                self._level, min(self._level + (1.0 if self._level < self._fast_until else step), self._highest)
            )
        if began >= self._since:
            self._answered |= not trouble
            replies = max(_LEAST_REPLIES, _REPLIES_PER_CALL * self.limit)
            # One time-out of a slow address is a quarter of an hour of its work lost, and enough.
            self._trouble += (trouble - self._trouble) / (1 if self._is_slow and trouble else replies)
        if self._trouble > _TROUBLED_SHARE:
            # Falls without any answer between them show how long an outage is, not how many calls are accepted.
            if self._answered:
                self._fast_until = _DECREASE * self._level
            self._level *= _DECREASE
            self._since, self._trouble, self._answered = now, 0.0, False
        self._level = max(1.0, min(self._level, float(self.ceiling)))


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One limit per minute as the headers of a reply show it."""

    unit: Unit
    remaining: float
    """Requests or tokens left."""
    limit: float = 0.0
    """All requests or tokens; 0 if not shown."""
    reset_seconds: float = 0.0
    """Time until all of them are left again; 0 if not shown."""

    @property
    def per_second(self) -> float:
        """How fast used ones come back; 0 if too little is shown, or none are used."""
        return max(0.0, self.limit - self.remaining) / self.reset_seconds if self.reset_seconds else 0.0


class Bucket:
    """Fills at ``per_second`` up to ``capacity``; stored as the time when it is full. By default without limit.

    More than ``longest_seconds`` are not waited: a run would stand still without a word, and a refusal says more.
    """

    def __init__(
        self, per_second: float = float("inf"), capacity: float = 0.0, longest_seconds: float = float("inf")
    ) -> None:
        self.taken = 0.0
        """Sum of all amounts taken."""
        self._per_second, self._capacity, self._longest_seconds = per_second, capacity, longest_seconds
        self._full_at = self._shown_at = float("-inf")

    def delay(self, amount: float, now: float) -> float:
        """Seconds until ``amount`` may be taken. More than the capacity waits for a full bucket and goes into debt."""
        wait = self._full_at - now - (self._capacity - min(amount, self._capacity)) / self._per_second
        # Below a nanosecond is rounding, and waiting for it would never end.
        return wait if 1e-9 < wait <= self._longest_seconds else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take ``amount``; a negative one gives back what was not needed."""
        self._full_at = max(self._full_at, now) + amount / self._per_second
        self.taken += amount

    def show(self, shown: RateLimit, *, sent: float, taken_then: float, now: float) -> None:
        """Adopt what the reply to a request shows that was sent at ``sent``, when ``taken_then`` was taken.

        What the provider had left at that time fills up until its reset; what was taken since is subtracted.
        """
        if shown.per_second and sent >= self._shown_at:
            self._shown_at, self._capacity, self._per_second = sent, shown.limit, shown.per_second
            self._full_at = max(now, sent + shown.reset_seconds) + (self.taken - taken_then) / self._per_second


@dataclass(frozen=True, slots=True)
class Permit:
    """A request that was let through."""

    tokens: int
    """Tokens reserved for it."""
    sent: float
    taken: dict[Unit, float]
    """Sums taken from the learned buckets when it was sent."""


class Rates:
    """The limits per minute of one address for one model and key.

    Limits of the configuration and of headers both apply. A configured bucket holds one second's worth, so that no
    minute exceeds the limit by more than that; a learned one starts from what is left.
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
        return max(0.0, self._paused_until - now, *(each.delay(amount, now) for each, amount in self._amounts(tokens)))

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
        """End a request: give back unused tokens, and learn the limits that its reply shows.

        Nothing is sent for ``pause_seconds``, unless that is longer than the longest honoured pause.
        """
        if pause_seconds <= LONGEST_HONOURED_SECONDS:
            self._paused_until = max(self._paused_until, now + pause_seconds)
        if "tokens" in self._set:
            self._set["tokens"].take(used_tokens - permit.tokens, now)
        for shown in limits:
            taken_then = permit.taken.get(shown.unit, 0.0)
            learned = self._learned.setdefault(shown.unit, Bucket(longest_seconds=LONGEST_HONOURED_SECONDS))
            learned.show(shown, sent=permit.sent, taken_then=taken_then, now=now)

    def _amounts(self, tokens: int) -> Iterator[tuple[Bucket, float]]:
        """Every bucket, with the amount that a request of ``tokens`` takes from it."""
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
    """Seconds to wait after an attempt failed as ``kind``, or None if the call is given up.

    Exponential with full jitter. A Retry-After is waited in full, with jitter on top so that rows do not all return at
    once. ``failed`` counts the call's failed attempts by kind, including this one. Kinds that `calls.retries` does not
    name are not retried: a wrong key or a reached cap stays until someone acts, a refusal or a prompt that is too long
    for good.
    """
    attempt = sum(failed.values())
    too_often = attempt >= config.max_attempts or failed[kind] >= getattr(config.retries, kind, 0)
    if too_often or (retry_after_seconds or 0.0) > LONGEST_HONOURED_SECONDS:
        return None
    if retry_after_seconds is not None:
        return retry_after_seconds + rng.uniform(0, config.backoff_seconds)
    return rng.uniform(0, min(config.max_backoff_seconds, config.backoff_seconds * 2 ** min(attempt - 1, 60)))


def read_rate_limits(headers: Mapping[str, str]) -> tuple[RateLimit, ...]:
    """The limits per minute that ``headers`` (looked up without regard to case, or lower-case) show.

    At most one for each unit. A header that cannot be read counts as missing.
    """
    found: dict[Unit, RateLimit] = {}
    for unit, remaining_name, limit_name, reset_name in _HEADERS:
        remaining = _read_number(headers.get(remaining_name))
        if remaining is not None and unit not in found:
            reset = _read_seconds(headers, reset_name, datetime.fromisoformat)
            found[unit] = RateLimit(unit, remaining, _read_number(headers.get(limit_name)) or 0.0, reset or 0.0)
    return tuple(found.values())


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, or `Retry-After`: seconds, a duration or a date."""
    milliseconds = _read_number(headers.get("retry-after-ms"))
    return _read_seconds(headers, "retry-after", parsedate_to_datetime) if milliseconds is None else milliseconds / 1000


def _read_number(text: str | None) -> float | None:
    """A finite number that is not negative, or None."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _read_seconds(headers: Mapping[str, str], name: str, read: Callable[[str], datetime]) -> float | None:
    """Seconds of a plain number, of a duration such as ``6m0s`` or ``120ms``, or until a date; None for other text."""
    text = headers.get(name, "").strip()
    seconds = _read_number(text)
    if seconds is not None:
        return seconds
    if _DURATION.fullmatch(text):
        return sum(float(amount) * _SECONDS[unit] for amount, unit in _PART.findall(text))
    # By the server's clock, which its dates refer to; by ours if it does not say.
    until, now = _read_date(text, read), _read_date(headers.get("date", ""), parsedate_to_datetime) or datetime.now(UTC)
    return None if until is None else max(0.0, (until - now).total_seconds())


def _read_date(text: str, read: Callable[[str], datetime]) -> datetime | None:
    """A moment, in UTC if it names no zone; None if ``read`` cannot read it."""
    try:
        date = read(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")

# OpenAI's headers, which most others follow, and Anthropic's: for each unit what remains, the limit and its reset.
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
