"""OpenAI's files and batches over the same rules that answer single requests.

A batch is validating, in progress while its rows are answered evenly, finalizing, and then completed or expired; or it
ends as cancelled or failed. All rows must go to the batch's own address and name one model, as OpenAI wants it.

Limits: everything is in memory, so that nothing survives the server. There is one endpoint and one completion window;
no notice is taken of that window, of queue limits or of ``output_expires_after``.
"""

import asyncio
import json
import math
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, Protocol

from aiohttp import BodyPartReader, web

from tapir_core.errors import ConfigError
from tapir_core.standin.rules import Behaviour
from tapir_core.standin.server import CHAT, MODELS, BadRequest, reply_to_json
from tests.doubles.faults import FaultKind, FaultScript, SentReply, describe, draw_unit

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_WINDOW = "24h"
"""The one completion window, as at OpenAI."""
_WINDOW_SECONDS = 24 * 3600
_EDGE_SHARE = 0.1
"""Share of a batch's time that validating takes, and finalizing."""
_FEWEST_SLICES = 20
_LARGEST_SLICE = 100
"""Rows that are answered in one go; other requests come in between."""
_MOST_PROBLEMS = 100
"""Problems that are told of one file."""
_LARGEST_PAGE = 100
_LARGEST_UPLOAD_BYTES = 512 * 2**20
_LONGEST_PURPOSE_BYTES = 100
_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class BatchRules:
    """How batches go.

    Raises:
        ConfigError: values are out of range; all of them are named.
    """

    seconds: float = 1.0
    """From a batch's creation to its last status: a tenth validating, a tenth finalizing, the rest in progress."""
    expire_share: float = 0.0
    """Share of rows that are not answered in time; a batch with such a row ends as expired."""
    fail_share: float = 0.0
    """Share of rows that fail with status 500."""
    max_rows: int = 50_000
    """Most rows of an input file; a batch over a longer one fails."""
    max_bytes: int = 200 * 2**20
    """Largest input file; a batch over a larger one fails."""

    def __post_init__(self) -> None:
        shares = {"expire_share": self.expire_share, "fail_share": self.fail_share}
        most = {"max_rows": self.max_rows, "max_bytes": self.max_bytes}
        problems = (
            [] if 0 <= self.seconds < math.inf else [f"the batches' seconds are {self.seconds:g}: give 0 or more"]
        )
        problems += [
            f"the batches' {name} is {share:g}: give a number from 0 to 1"
            for name, share in shares.items()
            if not 0 <= share <= 1
        ]
        if not problems and sum(shares.values()) > 1:
            problems.append(f"expire_share + fail_share is {sum(shares.values()):g}: give 1 at most")
        problems += [f"the batches' {name} is {value}: give 1 or more" for name, value in most.items() if value < 1]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file."""

    id: str
    name: str
    purpose: str
    """`batch` for input, `batch_output` for what a batch wrote."""
    content: bytes
    created_at: int = field(default_factory=lambda: int(time.time()))
    """Unix time in seconds."""

    def to_json(self) -> dict[str, Any]:
        """OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


@dataclass(slots=True, eq=False)
class Batch:
    """One batch and how far it is."""

    id: str
    input_file_id: str
    metadata: dict[str, str] | None
    created_at: int = field(default_factory=lambda: int(time.time()))
    """Unix time in seconds, as all moments here."""
    status: Status = "validating"
    moments: dict[str, int] = field(default_factory=dict)
    """`in_progress_at`, `completed_at`, … as far as they came."""
    problems: list[dict[str, Any]] = field(default_factory=list)
    """Why the input file was not taken."""
    total: int = 0
    answered: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the output file."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the error file."""
    output_file_id: str | None = None
    error_file_id: str | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once somebody wants it to stop."""

    def enter(self, status: Status) -> None:
        """Take up a status, now."""
        self.status = status
        self.moments[f"{status}_at"] = int(time.time())

    def cancel(self) -> None:
        """Stop before the next rows; those answered so far are kept."""
        self.enter("cancelling")
        self.cancelled.set()

    def to_json(self) -> dict[str, Any]:
        """OpenAI's batch object."""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": CHAT,
            "errors": {"object": "list", "data": self.problems} if self.problems else None,
            "input_file_id": self.input_file_id,
            "completion_window": _WINDOW,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "expires_at": self.created_at + _WINDOW_SECONDS,
            **self.moments,
            "request_counts": {"total": self.total, "completed": len(self.answered), "failed": len(self.failed)},
            "metadata": self.metadata,
        }


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


class Record(Protocol):
    """Counts a chat request and writes its line."""

    def __call__(self, content: bytes, reply: SentReply, *, fault: FaultKind | None, batch: str) -> None: ...


class BatchApi:
    """All files and batches of one server, and the handlers of their addresses."""

    def __init__(self, behaviour: Behaviour, rules: BatchRules, script: FaultScript, record: Record) -> None:
        """Nothing is there yet; ``record`` is told each row that is executed."""
        self._behaviour = behaviour
        self._rules = rules
        self._script = script
        self._record = record
        self._files: dict[str, StoredFile] = {}
        self._batches: dict[str, Batch] = {}
        self._lives: set[asyncio.Task[None]] = set()
        self._seen: Counter[str] = Counter()
        # Ids are new in each server: one of an earlier server must be unknown here, not another batch.
        self._server = secrets.token_hex(4)

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, address and handler; a handler raises `BadRequest` at a wrong request."""
        return [
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files/{id}", self._show_file),
            ("DELETE", "/v1/files/{id}", self._delete_file),
            ("GET", "/v1/files/{id}/content", self._send_content),
            ("GET", "/v1/batches", self._list),
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches/{id}", self._show),
            ("POST", "/v1/batches/{id}/cancel", self._cancel),
        ]

    async def close(self) -> None:
        """End the batches that are under way, unfinished."""
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)

    async def _upload(self, request: web.Request) -> web.Response:
        """`POST /v1/files`: a multipart form of `purpose` and `file`."""
        if not request.content_type.startswith("multipart/"):
            raise BadRequest("upload a multipart form of 'purpose' and 'file'")
        purpose, name, content = "", "", None
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise BadRequest("the form holds another form")
            if part.name == "purpose":
                purpose = (await _read(part, _LONGEST_PURPOSE_BYTES)).decode("utf-8", "replace")
            elif part.name == "file":
                name, content = part.filename or "upload.jsonl", await _read(part, _LARGEST_UPLOAD_BYTES)
        if content is None:
            raise BadRequest("the form has no 'file'")
        if purpose != "batch":
            raise BadRequest(f"the stand-in keeps files of purpose 'batch', not {purpose!r}")
        return web.json_response(self._keep(content, name=name, purpose=purpose).to_json())

    async def _show_file(self, request: web.Request) -> web.Response:
        return web.json_response(self._file(request.match_info["id"]).to_json())

    async def _send_content(self, request: web.Request) -> web.Response:
        content = self._file(request.match_info["id"]).content
        return web.Response(body=content, content_type="application/octet-stream")

    async def _delete_file(self, request: web.Request) -> web.Response:
        stored = self._files.pop(self._file(request.match_info["id"]).id)
        return web.json_response({"id": stored.id, "object": "file", "deleted": True})

    async def _create(self, request: web.Request) -> web.Response:
        """`POST /v1/batches`: start a batch over an uploaded file."""
        try:
            asked = await request.json()
        except ValueError as exc:
            raise BadRequest(f"the body is not JSON: {exc}") from exc
        if not isinstance(asked, dict):
            raise BadRequest("the body must be a JSON object")
        for name, wanted in (("endpoint", CHAT), ("completion_window", _WINDOW)):
            if asked.get(name) != wanted:
                raise BadRequest(f"'{name}' must be {wanted!r}, not {asked.get(name)!r}")
        source = self._file(str(asked.get("input_file_id")))
        if source.purpose != "batch":
            raise BadRequest(f"{source.id} has the purpose {source.purpose!r}, but a batch needs 'batch'")
        batch = Batch(f"batch_{self._server}_{len(self._batches) + 1:04d}", source.id, asked.get("metadata"))
        self._batches[batch.id] = batch
        life = asyncio.create_task(self._run(batch, source.content), name=batch.id)
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        return web.json_response(batch.to_json())

    async def _show(self, request: web.Request) -> web.Response:
        """`GET /v1/batches/{id}`."""
        return web.json_response(self._batch(request.match_info["id"]).to_json())

    async def _cancel(self, request: web.Request) -> web.Response:
        """`POST /v1/batches/{id}/cancel`."""
        batch = self._batch(request.match_info["id"])
        if batch.status in {"validating", "in_progress"}:
            batch.cancel()
        elif batch.status not in {"cancelling", "cancelled"}:
            raise BadRequest(f"Cannot cancel a batch with status '{batch.status}'.", status=409)
        return web.json_response(batch.to_json())

    async def _list(self, request: web.Request) -> web.Response:
        """`GET /v1/batches`: newest first, `limit` a page, going on behind the id `after`."""
        limit, after = request.query.get("limit", "20"), request.query.get("after")
        if not limit.isdecimal() or not 1 <= int(limit) <= _LARGEST_PAGE:
            raise BadRequest(f"'limit' must be an integer from 1 to {_LARGEST_PAGE}, not {limit!r}")
        newest_first = list(reversed(self._batches.values()))
        begin = newest_first.index(self._batch(after)) + 1 if after else 0
        page = newest_first[begin : begin + int(limit)]
        return web.json_response(
            {
                "object": "list",
                "data": [batch.to_json() for batch in page],
                "first_id": page[0].id if page else None,
                "last_id": page[-1].id if page else None,
                "has_more": begin + len(page) < len(newest_first),
            }
        )

    async def _run(self, batch: Batch, content: bytes) -> None:
        """The whole life of a batch over an input file's content."""
        seconds = self._rules.seconds
        await _pause(batch, seconds * _EDGE_SHARE)
        # In a thread, as writing is: a file of 200 MB would hold up everybody else for seconds.
        source = await asyncio.to_thread(read_input, content, self._rules)
        if source.problems:
            batch.problems = source.problems
            batch.enter("failed")
            return
        batch.total = len(source.rows)
        await self._answer(batch, source.rows, seconds * (1 - 2 * _EDGE_SHARE))
        await self._finish(batch, seconds * _EDGE_SHARE)

    async def _answer(self, batch: Batch, rows: list[BatchRow], seconds: float) -> None:
        if not batch.cancelled.is_set():
            batch.enter("in_progress")
        for numbers in _slices(len(rows)):
            await _pause(batch, seconds * len(numbers) / len(rows))
            for number in numbers:
                self._answer_row(batch, rows[number], f"{batch.id}_row_{number + 1}")

    def _answer_row(self, batch: Batch, row: BatchRow, row_id: str) -> None:
        """Answer a row, or let it fail or expire by its share; the same body may do better in a later batch."""
        if batch.cancelled.is_set():
            batch.failed.append(_unreached(row_id, row, "cancelled"))
            return
        content = row.content()
        digest = sha256(content).hexdigest()
        point = draw_unit(self._script.faults.seed, "batch", digest, self._seen[digest])
        self._seen[digest] += 1
        if point < self._rules.expire_share:
            batch.failed.append(_unreached(row_id, row, "expired"))
            return
        fault: FaultKind | None = "500" if point < self._rules.expire_share + self._rules.fail_share else None
        reply = self._script.error(fault) if fault else describe(row.body, reply_to_json(row.body, self._behaviour))
        self._record(content, reply, fault=fault, batch=batch.id)
        response = {"status_code": reply.status, "request_id": f"req_{row_id}", "body": reply.body}
        lines = batch.answered if reply.status == 200 else batch.failed
        lines.append({"id": row_id, "custom_id": row.custom_id, "response": response, "error": None})

    async def _finish(self, batch: Batch, seconds: float) -> None:
        if not batch.cancelled.is_set():
            batch.enter("finalizing")
            await asyncio.sleep(seconds)
        batch.output_file_id = await self._write(batch, batch.answered, "output")
        batch.error_file_id = await self._write(batch, batch.failed, "error")
        expired = any(line["error"] and line["error"]["code"] == "batch_expired" for line in batch.failed)
        batch.enter("cancelled" if batch.cancelled.is_set() else "expired" if expired else "completed")

    async def _write(self, batch: Batch, lines: list[dict[str, Any]], name: str) -> str | None:
        """The id of a file of these rows, in an order that is not the input's; none without rows."""
        if not lines:
            return None
        mixed = random.Random(len(lines)).sample(lines, len(lines))
        content = await asyncio.to_thread(to_jsonl, mixed)
        return self._keep(content, name=f"{batch.id}_{name}.jsonl", purpose="batch_output").id

    def _batch(self, batch_id: str) -> Batch:
        batch = self._batches.get(batch_id)
        if batch is None:
            raise BadRequest(f"No batch found with id '{batch_id}'.", status=404)
        return batch

    def _file(self, file_id: str) -> StoredFile:
        stored = self._files.get(file_id)
        if stored is None:
            raise BadRequest(f"No such File object: {file_id}", status=404)
        return stored

    def _keep(self, content: bytes, *, name: str, purpose: str) -> StoredFile:
        stored = StoredFile(f"file-{secrets.token_hex(12)}", name, purpose, content)
        self._files[stored.id] = stored
        return stored


def read_input(content: bytes, rules: BatchRules) -> BatchInput:
    """Read and check an input file."""
    lines = [(number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]
    said = ""
    if len(content) > rules.max_bytes:
        code, said = "file_too_large", f"is larger than the {rules.max_bytes} bytes that one may have"
    elif not lines:
        code, said = "empty_file", "has no requests"
    elif len(lines) > rules.max_rows:
        code, said = "too_many_tasks", f"has {len(lines)} requests, more than the {rules.max_rows} that one may have"
    if said:
        return BatchInput([], [_problem(code, f"The input file {said}.")])
    rows: dict[str, BatchRow] = {}
    problems = []
    for number, line in lines:
        read = _read_row(line, number, rows)
        if isinstance(read, BatchRow):
            rows[read.custom_id] = read
        else:
            problems.append(read)
    return BatchInput(list(rows.values()), problems[:_MOST_PROBLEMS])


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
    custom_id, method, url = (value.get(name) for name in ("custom_id", "method", "url"))
    body: Any = value.get("body")
    model = body.get("model") if isinstance(body, dict) else None
    name = custom_id if isinstance(custom_id, str) else ""
    first = next(iter(before.values()), None)
    checks = (
        (
            isinstance(custom_id, str) and custom_id,
            "missing_required_parameter",
            "custom_id",
            "'custom_id' is missing.",
        ),
        (name not in before, "duplicate_custom_id", "custom_id", f"The custom_id {custom_id!r} came before."),
        (method == "POST", "invalid_method", "method", f"The method {method!r} is not 'POST'."),
        (url == CHAT, "url_mismatch", "url", f"The url {url!r} is not the batch's."),
        (isinstance(body, dict), "missing_required_parameter", "body", "'body' is missing."),
        (model in MODELS, "model_not_found", "body.model", f"There is no model {model!r}."),
        (
            first is None or first.body["model"] == model,
            "model_mismatch",
            "body.model",
            "All rows must name one model.",
        ),
    )
    wrong = next(((code, said, number, param) for right, code, param, said in checks if not right), None)
    return _problem(*wrong) if wrong else BatchRow(name, body)


def _unreached(row_id: str, row: BatchRow, how: Literal["cancelled", "expired"]) -> dict[str, Any]:
    """The row of a request that was never executed."""
    said = {
        "cancelled": "The batch was cancelled before this request was executed.",
        "expired": "This request was not executed before the completion window ended.",
    }
    error = {"code": f"batch_{how}", "message": said[how]}
    return {"id": row_id, "custom_id": row.custom_id, "response": None, "error": error}


def _problem(code: str, message: str, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "line": line, "param": param}


async def _pause(batch: Batch, seconds: float) -> None:
    """Wait, but not longer than until the batch is cancelled."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await batch.cancelled.wait()


def _slices(rows: int) -> Iterator[range]:
    size = max(1, min(rows // _FEWEST_SLICES, _LARGEST_SLICE))
    return (range(begin, min(begin + size, rows)) for begin in range(0, rows, size))


async def _read(part: BodyPartReader, most_bytes: int) -> bytes:
    content = bytearray()
    while piece := await part.read_chunk(_PIECE_BYTES):
        content += piece
        if len(content) > most_bytes:
            raise BadRequest("File is too large.")
    return bytes(content)
