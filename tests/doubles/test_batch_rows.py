import json
import math
from typing import Any

import pytest

from tapir_core.errors import ConfigError
from tests.doubles.batches import BatchRow, BatchRules, read_input, to_jsonl
from tests.tapir_core.standin.asks import SUM

RULES = BatchRules()


def row(custom_id: str = "1", **changes: Any) -> dict[str, Any]:
    body = {"model": "standin-teacher", "messages": [{"role": "user", "content": SUM}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body, **changes}


def told(content: bytes, rules: BatchRules = RULES) -> list[tuple[str, int | None, str | None]]:
    problems = read_input(content, rules).problems
    assert all(problem["message"] for problem in problems)
    return [(problem["code"], problem["line"], problem["param"]) for problem in problems]


def test_a_right_file_gives_its_rows_in_order_and_blank_lines_do_not_count() -> None:
    content = to_jsonl([row("b"), row("a")]) + b"\n\n"
    read = read_input(content, BatchRules(max_rows=2))
    assert read.problems == []
    assert [(each.custom_id, each.body) for each in read.rows] == [("b", row()["body"]), ("a", row()["body"])]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{hello\n", ("invalid_json_line", 2, None)),
        (b"[1]\n", ("invalid_json_line", 2, None)),
        (b"\xff\n", ("invalid_json_line", 2, None)),
        (to_jsonl([row("")]), ("missing_required_parameter", 2, "custom_id")),
        (to_jsonl([row() | {"custom_id": 7}]), ("missing_required_parameter", 2, "custom_id")),
        (to_jsonl([row("first")]), ("duplicate_custom_id", 2, "custom_id")),
        (to_jsonl([row(method="GET")]), ("invalid_method", 2, "method")),
        (to_jsonl([row(url="/v1/embeddings")]), ("url_mismatch", 2, "url")),
        (to_jsonl([row(body=None)]), ("missing_required_parameter", 2, "body")),
        (to_jsonl([row(body={"model": "gpt-9"})]), ("model_not_found", 2, "body.model")),
        (to_jsonl([row(body={"model": "standin-judge"})]), ("model_mismatch", 2, "body.model")),
    ],
)
def test_a_wrong_line_is_told_with_its_number(line: bytes, problem: tuple[str, int, str | None]) -> None:
    assert told(to_jsonl([row("first")]) + line) == [problem]


def test_every_wrong_line_is_told_up_to_a_hundred() -> None:
    assert [line for _, line, _ in told(b"x\n" * 3)] == [1, 2, 3]
    assert len(told(b"x\n" * 300)) == 100


def test_a_file_without_rows_with_too_many_or_too_large_is_wrong_as_a_whole() -> None:
    two = to_jsonl([row("1"), row("2")])
    assert told(b"\n \n") == [("empty_file", None, None)]
    assert told(two, BatchRules(max_rows=1)) == [("too_many_tasks", None, None)]
    assert told(two, BatchRules(max_bytes=len(two) - 1)) == [("file_too_large", None, None)]
    assert told(two, BatchRules(max_rows=2, max_bytes=len(two))) == []


def test_a_rows_content_is_what_openais_client_would_send_alone() -> None:
    body = {"model": "standin-teacher", "messages": [{"role": "user", "content": "α\ud800"}]}
    content = BatchRow("1", body).content()
    assert json.loads(content.decode("utf-8", "surrogatepass")) == body
    assert b'{"model":"standin-teacher","messages"' in content


def test_all_batch_rules_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        BatchRules(seconds=math.nan, expire_share=-0.1, fail_share=2, max_rows=0, max_bytes=0)
    assert [problem.split(" is ")[0].split(" are ")[0] for problem in caught.value.problems] == [
        "the batches' seconds",
        "the batches' expire_share",
        "the batches' fail_share",
        "the batches' max_rows",
        "the batches' max_bytes",
    ]


def test_more_rows_cannot_expire_and_fail_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"is 1\.2: give 1 at most"):
        BatchRules(expire_share=0.6, fail_share=0.6)
