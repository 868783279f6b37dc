"""What went wrong with a whole batch is said in one sentence with a remedy, and is never a row's own fault."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from openai.types import Batch

from tapir_core.calls import Endpoint, Failure
from tapir_core.calls.batch_client import ProviderError, state_after, why_left, why_unreached
from tapir_core.calls.store_writes import OpenBatch
from tapir_core.calls.wire import read_error
from tapir_core.config import BatchConfig
from tests.doubles.provider import make_request

REMOTE = Endpoint("https://provider.example/v1", 8, api_key_env="PROVIDER_KEY")
LOCAL = Endpoint("http://127.0.0.1:8000/v1", 8)
NOW = datetime.now(UTC).replace(tzinfo=None)


def batch(age: timedelta = timedelta(), *, provider_id: str = "batch_1", perhaps_made: bool = True) -> OpenBatch:
    request = make_request()
    return OpenBatch(
        "tag",
        REMOTE.base_url,
        {request.key: request},
        {request.key: 1},
        NOW - age,
        "file-1",
        provider_id,
        perhaps_made=perhaps_made,
    )


def error(status: int) -> ProviderError:
    return ProviderError(read_error(status, {"error": {"message": "oh no"}}, raw=None), status)


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 429, 500])
@pytest.mark.parametrize("left", [batch(), batch(provider_id="", perhaps_made=False)])
def test_trouble_with_a_batch_is_always_retryable_and_names_a_remedy(status: int, left: OpenBatch):
    state = state_after(error(status), left, REMOTE, BatchConfig())
    assert state == ("" if left.provider_id else "refused")
    reply = why_left(error(status), state, left, REMOTE, BatchConfig())
    assert isinstance(reply.outcome, Failure)
    assert reply.outcome.retryable
    assert "oh no" in reply.outcome.message or status == 404
    assert ("PROVIDER_KEY" in reply.outcome.message) is (status == 401)
    assert reply.endpoint_at_fault is (not left.provider_id or status not in {429, 500})


def test_a_batch_that_may_have_been_made_is_kept_and_its_creation_is_tried_again():
    left = batch(provider_id="")
    assert state_after(error(500), left, REMOTE, BatchConfig()) == ""
    reply = why_left(error(500), "", left, REMOTE, BatchConfig())
    assert not reply.endpoint_at_fault


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
    state = state_after(error(404), batch(age), priced, BatchConfig())
    assert state == ("lost" if lost else "")
    reply = why_left(error(404), state, batch(age), priced, BatchConfig())
    assert reply.endpoint_at_fault is not lost
    assert state_after(error(500), batch(age), priced, BatchConfig()) == ""


def test_a_longer_window_keeps_a_batch_longer():
    week = BatchConfig(completion_window="7d")
    assert state_after(error(404), batch(timedelta(days=7)), REMOTE, week) == ""
    assert state_after(error(404), batch(timedelta(days=8, hours=1)), REMOTE, week) == "lost"


@pytest.mark.parametrize(
    ("status", "kind", "at_fault"),
    [
        ({"status": "completed"}, "server", False),
        ({"status": "expired"}, "timeout", False),
        ({"status": "cancelled"}, "connection", True),
        ({"status": "failed", "message": "wrong", "line": 3, "code": "invalid_json_line"}, "connection", True),
        ({"status": "failed", "message": "queue is full", "code": "token_limit_exceeded"}, "rate_limited", False),
    ],
)
def test_rows_that_no_file_tells_of_share_the_fate_of_their_batch(status: dict[str, Any], kind: str, at_fault: bool):
    shown = Batch.construct(status=status["status"], errors={"data": [status]} if "message" in status else None)
    reply = why_unreached(batch(), shown, REMOTE)
    assert isinstance(reply.outcome, Failure)
    assert (reply.outcome.kind, reply.endpoint_at_fault, reply.spent.requests) == (kind, at_fault, 0)
    assert status.get("message", "") in reply.outcome.message
    assert ("line 3: " in reply.outcome.message) is ("line" in status)
    assert "batch_1" in reply.outcome.message
