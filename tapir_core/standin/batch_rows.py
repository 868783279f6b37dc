"""Batch files row by row: what an input file asks, what is wrong with it, and the rows of output and error file.

Limits: all rows must go to the batch's own address and name one model, as OpenAI wants it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tapir_core.standin.behaviour import BatchRules
from tapir_core.standin.chat import ChatReply
from tapir_core.standin.wire import MODELS

__all__ = ["ENDPOINT", "BatchInput", "BatchRow", "read_input", "reply_line", "to_jsonl", "unreached_line"]

ENDPOINT = "/v1/chat/completions"
"""The one address that the stand-in answers in batches."""
_MOST_PROBLEMS = 100
"""Problems that are told of one file."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One request of an input file."""

    custom_id: str
    body: dict[str, Any]

    def content(self) -> bytes:
        """The body as OpenAI's client would send it alone, so that both have one digest in the log."""
        return json.dumps(self.body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class BatchInput:
    """An input file, read. It is right when there are no problems."""

    rows: list[BatchRow]
    problems: list[dict[str, Any]]
    """OpenAI's batch errors: code, message, line (from 1) and param."""


def read_input(content: bytes, rules: BatchRules) -> BatchInput:
    """Read and check an input file."""
    if len(content) > rules.max_bytes:
        said = f"The batch input file is larger than the {rules.max_bytes} bytes that one may have."
        return BatchInput([], [_problem("file_too_large", said)])
    lines = [(number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]
    if not lines:
        return BatchInput([], [_problem("empty_file", "The input file has no requests.")])
    if len(lines) > rules.max_rows:
        said = f"The input file has {len(lines)} requests, more than the {rules.max_rows} that one may have."
        return BatchInput([], [_problem("too_many_tasks", said)])
    rows: dict[str, BatchRow] = {}
    problems = []
    for number, line in lines:
        read = _read_row(line, number, rows)
        if isinstance(read, BatchRow):
            rows[read.custom_id] = read
        else:
            problems.append(read)
    return BatchInput(list(rows.values()), problems[:_MOST_PROBLEMS])


def reply_line(row_id: str, row: BatchRow, reply: ChatReply) -> dict[str, Any]:
    """The row of a request that was executed; one that failed has its error in the response's body."""
    response = {"status_code": reply.status, "request_id": f"req_{row_id}", "body": reply.body}
    return {"id": row_id, "custom_id": row.custom_id, "response": response, "error": None}


def unreached_line(row_id: str, row: BatchRow, *, code: str, message: str) -> dict[str, Any]:
    """The row of a request that was never executed."""
    return {
        "id": row_id,
        "custom_id": row.custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }


def to_jsonl(lines: Iterable[dict[str, Any]]) -> bytes:
    """Rows as a file's content."""
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _read_row(line: bytes, number: int, before: dict[str, BatchRow]) -> BatchRow | dict[str, Any]:
    """The row, or OpenAI's batch error about it; ``before`` are the right rows above it."""
    try:
        value = json.loads(line)
    except ValueError:
        return _problem("invalid_json_line", "This line is no JSON.", number)
    if not isinstance(value, dict):
        return _problem("invalid_json_line", "This line is no JSON object.", number)
    custom_id, body = value.get("custom_id"), value.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        return _problem("missing_required_parameter", "'custom_id' is missing.", number, "custom_id")
    if custom_id in before:
        return _problem("duplicate_custom_id", f"The custom_id {custom_id!r} came before.", number, "custom_id")
    if value.get("method") != "POST":
        return _problem("invalid_method", f"The method {value.get('method')!r} is not 'POST'.", number, "method")
    if value.get("url") != ENDPOINT:
        return _problem("url_mismatch", f"The url {value.get('url')!r} is not the batch's.", number, "url")
    if not isinstance(body, dict):
        return _problem("missing_required_parameter", "'body' is missing.", number, "body")
    if body.get("model") not in MODELS:
        return _problem("model_not_found", f"There is no model {body.get('model')!r}.", number, "body.model")
    first = next(iter(before.values()), None)
    if first is not None and first.body["model"] != body["model"]:
        return _problem("model_mismatch", "All rows must name one model.", number, "body.model")
    return BatchRow(custom_id, body)


def _problem(code: str, message: str, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "line": line, "param": param}
