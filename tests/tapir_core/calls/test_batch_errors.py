"""What went wrong with a whole batch is said in one sentence with a remedy, and is never a row's own fault."""

from datetime import UTC, datetime, timedelta

import pytest

from tapir_core.calls import Endpoint, Failure
from tapir_core.calls.batch_client import BatchStatus, ProviderError, at_creation, is_lost, while_away, why_unreached
from tapir_core.calls.store_writes import OpenBatch
from tapir_core.calls.wire import read_error
from tapir_core.config import BatchConfig
from tests.doubles.provider import make_request

REMOTE = Endpoint("https://provider.example/v1", 8, api_key_env="PROVIDER_KEY")
LOCAL = Endpoint("http://127.0.0.1:8000/v1", 8)
NOW = datetime.now(UTC).replace(tzinfo=None)


def batch(age: timedelta = timedelta()) -> OpenBatch:
    request = make_request()
    return OpenBatch("tag", REMOTE.base_url, {request.key: request}, {request.key: 1}, "file-1", "batch_1", NOW - age)


def error(status: int) -> ProviderError:
    reply = read_error(status, {"error": {"message": "oh no"}}, raw=None)
    assert isinstance(reply.outcome, Failure)
    return ProviderError(reply.outcome, reply, status)


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 429, 500])
def test_trouble_with_a_batch_is_always_retryable_and_names_a_remedy(status: int):
    for failure in (
        at_creation(error(status), REMOTE),
        while_away(error(status), batch(), REMOTE, BatchConfig()),
    ):
        assert failure.retryable
        assert "oh no" in failure.message or status == 404
        if status == 401:
            assert "PROVIDER_KEY" in failure.message


@pytest.mark.parametrize(
    ("endpoint", "price", "age", "lost"),
    [
        (REMOTE, 0.0, timedelta(hours=30), False),
        (REMOTE, 0.0, timedelta(hours=49), True),
        (LOCAL, 0.0, timedelta(), True),
        (LOCAL, 1.0, timedelta(), False),
    ],
)
def test_a_batch_is_lost_where_it_was_free_or_long_over(endpoint: Endpoint, price: float, age: timedelta, lost: bool):
    priced = Endpoint(endpoint.base_url, 8, usd_per_million_prompt_tokens=price)
    assert is_lost(error(404), batch(age), priced, BatchConfig()) is lost
    assert not is_lost(error(500), batch(age), priced, BatchConfig())


def test_a_longer_window_keeps_a_batch_longer():
    week = BatchConfig(completion_window="7d")
    assert not is_lost(error(404), batch(timedelta(days=7)), REMOTE, week)
    assert is_lost(error(404), batch(timedelta(days=8, hours=1)), REMOTE, week)


@pytest.mark.parametrize(
    ("status", "kind", "at_fault"),
    [
        (BatchStatus("completed"), "server", False),
        (BatchStatus("expired"), "timeout", False),
        (BatchStatus("cancelled"), "connection", True),
        (BatchStatus("failed", problems="line 3: wrong", code="invalid_json_line"), "connection", True),
        (BatchStatus("failed", problems="queue is full", code="token_limit_exceeded"), "rate_limited", False),
    ],
)
def test_rows_that_no_file_tells_of_share_the_fate_of_their_batch(status: BatchStatus, kind: str, at_fault: bool):
    reply = why_unreached(batch(), status, REMOTE)
    assert isinstance(reply.outcome, Failure)
    assert (reply.outcome.kind, reply.endpoint_at_fault, reply.attempts) == (kind, at_fault, 0)
    assert status.problems in reply.outcome.message
    assert "batch_1" in reply.outcome.message
