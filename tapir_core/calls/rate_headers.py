"""What a provider's response headers say about its limits per minute. Pure functions on headers.

Two families are read: ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}`` (OpenAI and those that follow it) and
``anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}``. A header that cannot be read counts as absent.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

__all__ = ["RateLimit", "Unit", "read_rate_limits"]

Unit = Literal["requests", "tokens"]

UNITS: tuple[Unit, ...] = ("requests", "tokens")
FAMILIES = ("x-ratelimit-{field}-{unit}", "anthropic-ratelimit-{unit}-{field}")
NAMES = {
    unit: [tuple(form.format(field=field, unit=unit) for field in ("remaining", "limit", "reset")) for form in FAMILIES]
    for unit in UNITS
}

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = r"\d+(?:\.\d+)?(?:ms|us|µs|ns|d|h|m|s)"
_DURATION = re.compile(f"(?:{_PART})+")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One limit as a reply showed it."""

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


def read_rate_limits(headers: Mapping[str, str], *, now: datetime) -> tuple[RateLimit, ...]:
    """The limits that ``headers`` (looked up without regard to case, or lower-case) show; at most one a unit."""
    found = []
    for unit in UNITS:
        for remaining_name, limit_name, reset_name in NAMES[unit]:
            remaining = _number(headers.get(remaining_name))
            if remaining is not None:
                reset = _seconds_until(headers.get(reset_name), now=now)
                found.append(RateLimit(unit, remaining, _number(headers.get(limit_name)), reset))
                break
    return tuple(found)


def _seconds_until(text: str | None, *, now: datetime) -> float | None:
    """Seconds of a plain number, of a duration such as ``6m0s`` or ``120ms``, or until an RFC 3339 date."""
    if text is None:
        return None
    text = text.strip()
    seconds = _number(text)
    if seconds is not None:
        return seconds
    if _DURATION.fullmatch(text):
        return sum(float(part.rstrip("dhmsuµn")) * _SECONDS[part.lstrip("0123456789.")] for part in _parts(text))
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())


def _parts(duration: str) -> list[str]:
    return re.findall(_PART, duration)


def _number(text: str | None) -> float | None:
    """A finite number that is not negative, or nothing."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
