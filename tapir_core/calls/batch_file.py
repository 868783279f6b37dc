"""Batch files: requests as the lines of input files within a provider's limits, and what the lines of a result mean.

Pure. The id of a line is the store's key of its request.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tapir_core.calls.client import hide_key
from tapir_core.calls.types import Endpoint, Failure, Request
from tapir_core.calls.wire import Reply, clean_text, read_completion, read_error, request_body
from tapir_core.config import BatchConfig

__all__ = ["ENDPOINT", "BatchFile", "read_line", "split_files"]

ENDPOINT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class BatchFile:
    """One input file."""

    rows: Mapping[str, Request]
    """By key, in the order of the lines."""
    content: bytes


def split_files(requests: Mapping[str, Request], limits: BatchConfig, *, tokens_field: str) -> Iterator[BatchFile]:
    """The input files of ``requests``; those of one file have run, role, model and identity in common."""
    alike: dict[tuple[str, ...], dict[str, Request]] = {}
    for key, request in requests.items():
        alike.setdefault((request.run, request.role, request.model, request.identity), {})[key] = request
    for group in alike.values():
        rows: dict[str, Request] = {}
        content = bytearray()
        for key, request in group.items():
            line = _line(key, request, tokens_field)
            if rows and (len(rows) >= limits.max_rows or len(content) + len(line) > limits.max_bytes):
                yield BatchFile(rows, bytes(content))
                rows, content = {}, bytearray()
            rows[key] = request
            content += line
        yield BatchFile(rows, bytes(content))


def read_line(line: bytes, endpoint: Endpoint) -> tuple[str, Reply] | None:
    """Key and reply of a line of an output or error file; nothing when it is no such line.

    The reply's raw text is the body of the chat completion alone, as that of a live call.
    """
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("custom_id"), str):
        return None
    response, error = value.get("response"), value.get("error")
    if isinstance(response, dict) and response.get("status_code"):
        return value["custom_id"], _read_response(response, endpoint)
    failure = _unreached(error if isinstance(error, dict) else {})
    return value["custom_id"], Reply(replace(failure, message=hide_key(failure.message, endpoint.api_key)), attempts=0)


def _line(key: str, request: Request, tokens_field: str) -> bytes:
    body = request_body(request, tokens_field=tokens_field)
    row = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _read_response(response: dict[str, Any], endpoint: Endpoint) -> Reply:
    body = response.get("body")
    raw = hide_key(clean_text(json.dumps(body, ensure_ascii=False)), endpoint.api_key)
    if response["status_code"] == 200:
        return read_completion(
            raw,
            usd_per_million_prompt=endpoint.usd_per_million_prompt_tokens,
            usd_per_million_completion=endpoint.usd_per_million_completion_tokens,
        )
    return read_error(int(response["status_code"]), json.loads(raw), raw=raw)


def _unreached(error: dict[str, Any]) -> Failure:
    code, said = str(error.get("code") or ""), clean_text(str(error.get("message") or "no reply and no reason"))
    if code == "batch_expired":
        return Failure("timeout", f"the batch's time was over before this request was made: {said}")
    return Failure("server", f"the batch did not make this request: {code} {said}".strip())
