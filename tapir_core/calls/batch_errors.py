"""What may go wrong with a batch as a whole, as one failure for all its rows. Pure.

Such a failure is always retryable: it says nothing about a row.
"""

from datetime import UTC, datetime, timedelta

from tapir_core.calls.batch_client import BatchStatus, ProviderError
from tapir_core.calls.batch_rows import OpenBatch
from tapir_core.calls.prices import is_local
from tapir_core.calls.types import TERMINAL, Endpoint, Failure, FailureKind
from tapir_core.calls.wire import Reply
from tapir_core.config import BatchConfig

__all__ = ["at_creation", "is_lost", "while_away", "why_unreached"]

FULL_QUEUE = "token_limit_exceeded"
"""OpenAI's code for more tokens in waiting batches than the account may have: others have to end first."""
KEPT_LONGER = timedelta(days=1)
"""How long after its window a batch that nobody knows may still come back."""


def at_creation(error: ProviderError, endpoint: Endpoint) -> Failure:
    """A provider that takes no input file, or makes no batch of it."""
    said = f"{endpoint.base_url} takes no batch ({error.failure.message})"
    if error.failure.kind == "unauthorized":
        remedy = endpoint.key_remedy
    elif error.reply.endpoint_at_fault or error.failure.kind in TERMINAL:
        remedy = 'Check base_url and that it offers the Batch API, or set mode = "live"'
    else:
        remedy = "Wait until it answers again"
    return Failure(_kind(error), f"{said}. {remedy}; then the same command goes on.")


def while_away(error: ProviderError, batch: OpenBatch, endpoint: Endpoint, limits: BatchConfig) -> Failure:
    """A batch that cannot be looked at now."""
    if is_lost(error, batch, endpoint, limits):
        return Failure("server", f"{endpoint.base_url} knows batch {batch.provider_id} no more")
    if error.status == 404:
        until = batch.created + _window(limits) + KEPT_LONGER
        said = (
            f"{endpoint.base_url} does not know batch {batch.provider_id}, made at {batch.address}. Use that address "
            f"and a key of the project that made it; after {until:%Y-%m-%d %H:%M} UTC its requests are asked anew"
        )
        return Failure("connection", f"{said}.")
    remedy = endpoint.key_remedy + "; then the" if error.failure.kind == "unauthorized" else "The"
    said = f"batch {batch.provider_id} goes on at {endpoint.base_url}, which does not say how ({error.failure.message})"
    return Failure(_kind(error), f"{said}. {remedy} same command takes its answers.")


def is_lost(error: ProviderError, batch: OpenBatch, endpoint: Endpoint, limits: BatchConfig) -> bool:
    """Whether nothing is lost by asking for its requests again: it was free, or its time is long over."""
    priced = endpoint.usd_per_million_prompt_tokens or endpoint.usd_per_million_completion_tokens
    free = is_local(endpoint.base_url) and not priced
    now = datetime.now(UTC).replace(tzinfo=None)
    return error.status == 404 and (free or now > batch.created + _window(limits) + KEPT_LONGER)


def why_unreached(batch: OpenBatch, status: BatchStatus, endpoint: Endpoint) -> Reply:
    """What rows of a batch that has ended failed of when no line of its files says so."""
    name = f"batch {batch.provider_id} of {endpoint.base_url}"
    at_fault = False
    if status.status == "expired":
        failure = Failure("timeout", f"{name} expired before this request was made")
    elif status.status == "cancelled":
        failure, at_fault = Failure("connection", f"{name} was cancelled there; the same command asks again"), True
    elif status.code == FULL_QUEUE:
        failure = Failure("rate_limited", f"{name} found no room: {status.problems}")
    elif status.status == "failed":
        remedy = "Check the model's name, batch.max_rows and batch.max_bytes; then the same command goes on"
        failure, at_fault = Failure("connection", f"{name} was not taken: {status.problems}. {remedy}."), True
    else:
        failure = Failure("server", f"{name} ended without a word on this request")
    return Reply(failure, attempts=0, endpoint_at_fault=at_fault)


def _kind(error: ProviderError) -> FailureKind:
    return "connection" if error.failure.kind in TERMINAL else error.failure.kind


def _window(limits: BatchConfig) -> timedelta:
    amount = int(limits.completion_window[:-1])
    return timedelta(hours=amount) if limits.completion_window.endswith("h") else timedelta(days=amount)
