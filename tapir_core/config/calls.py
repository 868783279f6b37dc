"""How calls are made, where their answers are kept, and what they may cost at most."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from tapir_core.config._base import Section, StoreUrl

__all__ = ["BudgetConfig", "CallsConfig", "Caps", "RetriesConfig"]


class RetriesConfig(Section):
    """Attempts for one request by what went wrong. Refusals and prompts that are too long are never tried again."""

    connection: PositiveInt = 10
    """Attempts that may find the connection refused or broken; together they outlast a restart of the server."""

    rate_limited: PositiveInt = 12
    """Attempts that may be told 429; they cost nothing."""

    server: PositiveInt = 8
    """Attempts that may end in an error of the server (5xx) or in a body that is no chat completion."""

    timeout: PositiveInt = 3
    """Attempts that may get no reply within `timeout_seconds`; the provider may charge for each."""


class CallsConfig(Section):
    """How paid calls are made. Nothing here changes an answer, so nothing here re-runs a stage."""

    concurrency: PositiveInt = 64
    """Most requests in flight to one address. Fewer are, while it says 429 or calls time out."""

    timeout_seconds: PositiveFloat = 120.0
    """Longest wait for one reply."""

    max_attempts: PositiveInt = 12
    """Attempts for one request, whatever goes wrong, before its failure is kept as retryable."""

    retries: RetriesConfig = RetriesConfig()
    """Limits by what goes wrong, within `max_attempts`."""

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

    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of a stage's requests that may fail for good or get a reply of no use; refusals in waves do not count."""

    store_url: StoreUrl | None = None
    """SQLAlchemy URL of the call store; nothing means `<root>/.tapir/store.sqlite`."""


PaidStage = Literal["label", "teach", "judge", "expand", "refine", "benchmark"]


class Caps(Section):
    """Most that may be spent; what is left out has no cap. Raising a cap re-runs nothing."""

    usd: PositiveFloat | None = None
    """US dollars; every price must be known then."""

    requests: PositiveInt | None = None
    """Requests to teacher and judge, repeated attempts included."""

    tokens: PositiveInt | None = None
    """Prompt and completion tokens of teacher and judge."""

    hours: PositiveFloat | None = None
    """Hours of work, over all starts; time in which the run does not run is not counted."""


class BudgetConfig(Caps):
    """Caps of the whole run, and of single stages over all rounds. At a cap the run stops cleanly with exit code 3."""

    stages: dict[PaidStage, Caps] = Field(default_factory=dict)
    """`[budget.stages.judge]` and so on: caps of one stage that asks teacher or judge."""
