"""Lines of batch files: nothing is lost by splitting, and a result line means what a live reply would."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.calls import Answer, Endpoint, Failure
from tapir_core.calls.batch_client import read_line, split_rows, write_file
from tapir_core.calls.wire import request_body
from tapir_core.config import BatchConfig
from tests.doubles.provider import make_request

KEY = "sk-a-secret-key"
ENDPOINT = Endpoint(
    "http://provider/v1", 8, KEY, usd_per_million_prompt_tokens=1.0, usd_per_million_completion_tokens=2.0
)
COMPLETION = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5},
}


def line(**fields: Any) -> bytes:
    return json.dumps({"id": "row", "custom_id": "a", "response": None, "error": None, **fields}).encode()


def response(status: int, body: Any) -> dict[str, Any]:
    return {"status_code": status, "request_id": "r", "body": body}


@given(
    prompts=st.lists(st.text(max_size=40), max_size=30, unique=True),
    models=st.lists(st.sampled_from(["one", "two"]), min_size=30, max_size=30),
    most_rows=st.integers(1, 10),
    most_bytes=st.integers(1, 2000),
)
def test_files_hold_every_request_once_within_the_limits(
    prompts: list[str], models: list[str], most_rows: int, most_bytes: int
):
    asked = [make_request(prompt, model=model) for prompt, model in zip(prompts, models, strict=False)]
    requests = {request.key: request for request in asked}
    limits = BatchConfig(max_rows=most_rows, max_bytes=most_bytes)
    seen = []
    for rows in split_rows(requests, limits, Endpoint("", 1)):
        content = write_file(rows, Endpoint("", 1))
        lines = [json.loads(text) for text in content.splitlines()]
        assert [each["custom_id"] for each in lines] == list(rows)
        assert 1 <= len(lines) <= most_rows
        assert len(content) <= most_bytes or len(lines) == 1
        assert len({each["body"]["model"] for each in lines}) == 1
        assert [each["body"] for each in lines] == [request_body(each, Endpoint("", 1)) for each in rows.values()]
        seen += list(rows)
    assert sorted(seen) == sorted(requests)


def test_an_answer_has_its_tokens_and_price():
    key, reply = read_line(line(response=response(200, COMPLETION)), ENDPOINT, {}) or ("", None)
    assert key == "a"
    assert reply is not None
    assert reply.outcome == Answer("yes", "stop", 10, 5, pytest.approx(20e-6))
    assert json.loads(reply.raw or "") == COMPLETION


@pytest.mark.parametrize(
    ("fields", "kind", "attempts"),
    [
        ({"response": response(500, {"error": {"message": "oh"}})}, "server", 1),
        ({"response": response(400, {"error": {"message": "oh"}})}, "bad_request", 1),
        ({"response": response(429, {"error": {"message": "oh"}})}, "rate_limited", 1),
        ({"response": response(500, None)}, "server", 1),
        ({"response": response(200, None)}, "server", 1),
        ({"response": response(200, {"choices": []})}, "server", 1),
        ({"error": {"code": "batch_expired", "message": "late"}}, "timeout", 0),
        ({"error": {"code": "batch_cancelled", "message": "stop"}}, "server", 0),
        ({"error": {"message": None}}, "server", 0),
        ({}, "server", 0),
        ({"response": "yes", "error": "no"}, "server", 0),
    ],
)
def test_a_row_without_a_proper_reply_is_a_failure_of_its_kind(fields: dict[str, Any], kind: str, attempts: int):
    _, reply = read_line(line(**fields), ENDPOINT, {}) or ("", None)
    assert reply is not None
    assert isinstance(reply.outcome, Failure)
    assert (reply.outcome.kind, reply.spent.requests) == (kind, attempts)


@pytest.mark.parametrize("text", [b"", b"\n", b"{", b"[]", b"3", b"{}", b'{"custom_id": 3}', b"\xff\xfe"])
def test_what_is_no_line_is_nothing(text: bytes):
    assert read_line(text, ENDPOINT, {}) is None


def test_neither_raw_nor_message_holds_the_key_or_what_no_database_takes():
    body = {**COMPLETION, "choices": [{"message": {"content": f"{KEY}\ud800\x00"}, "finish_reason": "stop"}]}
    for fields in (
        {"response": response(200, body)},
        {"response": response(500, {"error": {"message": f"{KEY}\ud800\x00"}})},
        {"error": {"code": "x", "message": f"{KEY}\ud800\x00"}},
    ):
        _, reply = read_line(line(**fields), ENDPOINT, {}) or ("", None)
        assert reply is not None
        kept = (reply.raw or "") + (reply.outcome.text if isinstance(reply.outcome, Answer) else reply.outcome.message)
        assert KEY not in kept
        assert "[key]" in kept
        assert "\x00" not in kept
        kept.encode()
