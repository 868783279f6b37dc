"""How calls are made and where their answers are kept."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from tapir_core.config._base import Section, StoreUrl

__all__ = ["CallsConfig"]


class CallsConfig(Section):
    """How paid calls are made. Nothing here changes an answer, so nothing here re-runs a stage."""

    concurrency: PositiveInt = 64
    """Requests in flight to one endpoint."""

    timeout_seconds: PositiveFloat = 120.0
    """Longest wait for one reply."""

    max_attempts: PositiveInt = 6
    """Attempts for one request before its failure is kept as retryable."""

    backoff_seconds: PositiveFloat = 1.0
    """First pause between attempts; it doubles each time, with jitter, unless the server says Retry-After."""

    max_backoff_seconds: PositiveFloat = 60.0
    """Longest pause between two attempts."""

    dead_after_seconds: PositiveFloat = 120.0
    """An endpoint that has answered nothing for this long is given up, with one error for all its requests."""

    rows_per_shard: PositiveInt = 256
    """Most rows that one task works on."""

    shard_retries: NonNegativeInt = 2
    """Times that a shard with retryable outcomes is tried again before it stands red."""

    shard_retry_seconds: NonNegativeFloat = 10.0
    """Pause before a shard is tried again."""

    max_missing_share: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of a stage's rows that may still be missing when the run goes on without them."""

    store_url: StoreUrl | None = None
    """SQLAlchemy URL of the call store; nothing means `<root>/.tapir/store.sqlite`."""
