import json
from datetime import datetime
from typing import Any

import pytest

from tapir_core.calls.store_rows import make_row
from tapir_core.store_admin.rows import row_faults
from tests.doubles.provider import make_request
from tests.tapir_core.store_admin.store_rows import refusal, reply_of


def make_stored(**fields: Any) -> dict[str, Any]:
    request = make_request()
    return {**make_row(request.key, request, reply_of("é \u202e 漢\n")), **fields}


def make_failed(**fields: Any) -> dict[str, Any]:
    request = make_request()
    return {**make_row(request.key, request, refusal()), **fields}


def raw_of(**message: Any) -> str:
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})


CALLS = [{"function": {"name": "weigh", "arguments": "{}"}}]


@pytest.mark.parametrize(
    "row",
    [
        make_stored(),
        make_stored(text="Let me look.", raw=raw_of(content="Let me look.", tool_calls=CALLS)),
        make_stored(text="Four.", raw=raw_of(content="Four.", reasoning_content="Two and two.")),
        make_stored(text="<think>Two and two.</think>Four.", raw=raw_of(content="<think>Two and two.</think>Four.")),
        make_stored(raw=None),
        make_stored(created="2026-11-20 13:32:27.123456"),
        make_stored(usd=0),
        make_failed(),
        make_failed(status="too_long", raw="<html>no JSON</html>"),
    ],
)
def test_a_sound_row_has_no_fault(row: dict[str, Any]):
    assert row_faults(row) == []


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"key": "f" * 63}, "key is no sha256"),
        ({"key": "F" * 64}, "key is no sha256"),
        ({"key": ""}, "key is no sha256"),
        ({"status": "timeout"}, "unknown status"),
        ({"status": "ANSWER"}, "unknown status"),
        ({"text": "another"}, "reply gives another text"),
        ({"finish_reason": "tool_calls"}, "reply gives another text"),
        ({"text": "<think>\nForged.\n</think>\n\né \u202e 漢\n"}, "reply gives another text"),
        ({"role": "judge", "finish_reason": "length"}, "reply gives another text"),
        ({"raw": "{}"}, "reply gives another text"),
        ({"raw": ""}, "reply gives another text"),
        ({"raw": '{"choices": [{"message": {"refusal": "no"}}]}'}, "reply gives another text"),
        ({"raw": "[" * 100_000}, "reply gives another text"),
        ({"text": "half a character \udcc3"}, "undecodable text"),
        ({"model": "a\x00b"}, "undecodable text"),
        ({"run": b"bytes"}, "undecodable text"),
        ({"message": None}, "undecodable text"),
        ({"raw": "\udcff"}, "undecodable text"),
        ({"prompt_tokens": -1}, "impossible count"),
        ({"completion_tokens": -7}, "impossible count"),
        ({"completion_tokens": 2**31}, "impossible count"),
        ({"sample_index": "3"}, "impossible count"),
        ({"attempts": None}, "impossible count"),
        ({"usd": -0.5}, "impossible count"),
        ({"usd": float("nan")}, "impossible count"),
        ({"usd": "free"}, "impossible count"),
        ({"created": "once upon a time"}, "unreadable time"),
        ({"created": 17}, "unreadable time"),
    ],
)
def test_each_kind_of_damage_is_told(fields: dict[str, Any], fault: str):
    assert row_faults(make_stored(**fields)) == [fault]


def test_a_row_may_have_several_faults():
    row = make_stored(key="x", status="y", text="z\x00", usd=-1, created="")
    assert row_faults(row) == [
        "key is no sha256",
        "unknown status",
        "undecodable text",
        "impossible count",
        "unreadable time",
    ]


def test_a_failures_raw_body_is_not_compared():
    assert row_faults(make_failed(raw='{"choices": []}', created=datetime(2026, 1, 1))) == []
