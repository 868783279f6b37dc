"""Whether and when a failed call is tried again: a pure decision, without a clock and without waiting."""

import random
from dataclasses import dataclass

from tapir_core.calls.types import FailureKind
from tapir_core.config import CallsConfig

__all__ = ["RetryPolicy", "pause_before_retry"]

RETRIED: frozenset[FailureKind] = frozenset({"rate_limited", "server", "timeout", "connection"})
"""Kinds that another attempt may heal at once. A wrong key or a reached cap stays what it is until someone acts."""

LONGEST_HONOURED_SECONDS = 600.0
"""A longer Retry-After gives the call up: its row stays retryable, the others go on."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limits of one call's attempts."""

    max_attempts: int
    backoff_seconds: float
    max_backoff_seconds: float

    @classmethod
    def of(cls, config: CallsConfig) -> "RetryPolicy":
        """The policy that ``config`` sets."""
        return cls(config.max_attempts, config.backoff_seconds, config.max_backoff_seconds)


def pause_before_retry(
    policy: RetryPolicy, *, kind: FailureKind, attempt: int, retry_after_seconds: float | None, rng: random.Random
) -> float | None:
    """Seconds to wait after failed attempt number ``attempt`` (from 1), or nothing when the call is given up.

    Exponential with full jitter; a Retry-After is waited in full, with jitter on top so that its rows do not all come
    back in the same moment.
    """
    if kind not in RETRIED or attempt >= policy.max_attempts:
        return None
    if retry_after_seconds is not None:
        if retry_after_seconds > LONGEST_HONOURED_SECONDS:
            return None
        return retry_after_seconds + rng.uniform(0, policy.backoff_seconds)
    longest = min(policy.max_backoff_seconds, policy.backoff_seconds * 2 ** min(attempt - 1, 60))
    return rng.uniform(0, longest)
