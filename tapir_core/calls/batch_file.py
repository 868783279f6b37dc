"""Batch files: requests as the lines of input files within a provider's limits, and results into the store.

The id of a line is the store's key of its request. Of a result, what is no proper outcome comes back with its reason,
so that it is asked again: rows that failed or expired, and rows that are in neither file.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import Any

from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.batch_client import ENDPOINT, BatchClient, BatchStatus, why_unreached
from tapir_core.calls.batch_rows import OpenBatch
from tapir_core.calls.budget import settlement
from tapir_core.calls.client import hide_key
from tapir_core.calls.types import Endpoint, Failure, Request
from tapir_core.calls.wire import Reply, clean_text, read_completion, read_error, request_body
from tapir_core.config import BatchConfig

_LINES_PER_COMMIT = 500
_BYTES_IN_MEMORY = 16 * 2**20
"""A longer result waits on disk."""


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


async def store_results(
    client: BatchClient,
    store: AnswerStore,
    endpoint: Endpoint,
    batch: OpenBatch,
    status: BatchStatus,
    *,
    bring: Callable[[str, Reply], None],
) -> dict[str, Reply]:
    """Store every outcome of a batch that has ended, and tell ``bring`` of each that is committed.

    Gives the rows that have none, with what they failed of. What such a row has cost is settled, so that its next batch
    reserves anew.
    """
    unreached, owed = why_unreached(batch, status, endpoint), dict(batch.rows)
    failed: dict[str, Reply] = {}
    for file_id in status.file_ids:
        with SpooledTemporaryFile(max_size=_BYTES_IN_MEMORY) as file:
            await client.download(file_id, file)
            while lines := list(islice(file, _LINES_PER_COMMIT)):
                committing = []
                for key, reply in _owed_replies(lines, owed, endpoint):
                    store.settle(settlement(batch.attempts[key], reply))
                    request = owed.pop(key)
                    if isinstance(reply.outcome, Failure) and reply.outcome.retryable:
                        stopped = status.status == "cancelled" and not reply.attempts
                        failed[key] = unreached if stopped else reply
                        store.release(key)
                    else:
                        committing.append((key, reply, asyncio.wrap_future(store.put(key, request, reply))))
                for key, reply, committed in committing:
                    # Shielded: an interrupt must not take back what is on its way into the store.
                    bring(key, replace(reply, outcome=await asyncio.shield(committed)))
    for key in owed:
        store.settle(settlement(batch.attempts[key], unreached))
        store.release(key)
    return failed | dict.fromkeys(owed, unreached)


def _owed_replies(
    lines: Iterable[bytes], owed: Mapping[str, Request], endpoint: Endpoint
) -> Iterator[tuple[str, Reply]]:
    """Keys and replies of the lines whose rows are owed when their turn comes."""
    for line in lines:
        found = read_line(line, endpoint)
        if found is not None and found[0] in owed:
            yield found


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
