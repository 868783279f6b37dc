"""Whether and when a failed call is tried again: a pure decision, without a clock and without waiting."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from tapir_core.calls.types import FailureKind
from tapir_core.config import CallsConfig

__all__ = ["RetryPolicy", "pause_before_retry"]

LONGEST_HONOURED_SECONDS = 600.0
"""A longer Retry-After gives the call up: its row stays retryable, the others go on."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limits of one call's attempts."""

    max_attempts: int
    attempts: Mapping[FailureKind, int]
    """Attempts that may fail in each way. Other kinds are never tried again at once: a wrong key or a reached cap stays
    what it is until someone acts, a refusal or a prompt that is too long for good."""
    backoff_seconds: float
    max_backoff_seconds: float

    @classmethod
    def of(cls, config: CallsConfig) -> "RetryPolicy":
        """The policy that ``config`` sets."""
        retries = config.retries
        attempts: dict[FailureKind, int] = {
            "connection": retries.connection,
            "rate_limited": retries.rate_limited,
            "server": retries.server,
            "timeout": retries.timeout,
        }
        return cls(config.max_attempts, attempts, config.backoff_seconds, config.max_backoff_seconds)


def pause_before_retry(
    policy: RetryPolicy,
    *,
    kind: FailureKind,
    failed: Mapping[FailureKind, int],
    retry_after_seconds: float | None,
    rng: random.Random,
) -> float | None:
    """Seconds to wait after an attempt failed as ``kind``, or nothing when the call is given up.

    Exponential with full jitter; a Retry-After is waited in full, with jitter on top so that its rows do not all come
    back in the same moment. ``failed`` counts the call's failed attempts by kind, this one included.
    """
    attempt = sum(failed.values())
    if attempt >= policy.max_attempts or failed[kind] >= policy.attempts.get(kind, 0):
        return None
    if retry_after_seconds is not None:
        if retry_after_seconds > LONGEST_HONOURED_SECONDS:
            return None
        return retry_after_seconds + rng.uniform(0, policy.backoff_seconds)
    longest = min(policy.max_backoff_seconds, policy.backoff_seconds * 2 ** min(attempt - 1, 60))
    return rng.uniform(0, longest)
