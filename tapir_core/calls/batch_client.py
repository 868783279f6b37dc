"""Files and batches of one provider: OpenAI's Batch API over HTTP, the lines of its files, and what may go wrong.

A batch carries our tag as metadata. Before a creation whose reply was lost is repeated, the batch is looked for. What
goes wrong with a batch as a whole is one failure for all its rows, and always retryable: it says nothing about a row.

The id of a line is the store's key of its request. Of a result, what is no proper outcome comes back with its reason,
so that it is asked again: rows that failed or expired, and rows that are in neither file.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import IO, Any, TypeVar

import openai
from httpx2 import Response

from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.budget import settlement
from tapir_core.calls.client import Client, hide_key, json_or_text
from tapir_core.calls.limits import pause_before_retry
from tapir_core.calls.prices import is_local
from tapir_core.calls.store_tables import utc_now
from tapir_core.calls.store_writes import OpenBatch
from tapir_core.calls.types import TERMINAL, Endpoint, Failure, FailureKind, Request
from tapir_core.calls.wire import Reply, clean_text, read_completion, read_error, request_body
from tapir_core.config import BatchConfig, CallsConfig

T = TypeVar("T")

ENDPOINT = "/v1/chat/completions"

_TAG = "tapir"
"""Name of our metadata."""
_CLOCKS_APART = timedelta(days=1)
"""Batches that are older than ours by more than this are not looked at."""
_PAGE = 100
_PIECE_BYTES = 2**20
_FINAL = frozenset({"completed", "expired", "cancelled", "failed"})

_FULL_QUEUE = "token_limit_exceeded"
"""OpenAI's code for more tokens in waiting batches than the account may have: others have to end first."""
_KEPT_LONGER = timedelta(days=1)
"""How long after its window a batch that nobody knows may still come back."""

_LINES_PER_COMMIT = 500
_BYTES_IN_MEMORY = 16 * 2**20
"""A longer result waits on disk."""


@dataclass(eq=False)
class ProviderError(Exception):
    """Raised when a call has failed for good; never leaves the engine."""

    failure: Failure
    reply: Reply
    status: int | None
    """HTTP status; nothing when there was no reply."""


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """How far a batch is."""

    status: str
    file_ids: tuple[str, ...] = ()
    """Of output and errors, as far as there are any."""
    problems: str = ""
    """Why the provider did not take the input file, in words."""
    code: str = ""
    """The first problem's code."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will come."""
        return self.status in _FINAL


class BatchClient:
    """Files and batches at the first address of an endpoint. Belongs to one event loop."""

    def __init__(self, endpoint: Endpoint, limits: BatchConfig, config: CallsConfig, *, rng: random.Random) -> None:
        """Prepare the connections; none is opened yet.

        Raises:
            ConfigError: the address holds a user name or password, or the key cannot be sent.
        """
        self._client = Client(endpoint, timeout_seconds=config.timeout_seconds)
        self._window = limits.completion_window
        self._config = config
        self._rng = rng

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def upload(self, name: str, content: bytes) -> str:
        """The id of a new input file."""

        def send() -> Awaitable[dict[str, Any]]:
            file = (name, content, "application/jsonl")
            return self._ask(self._client.sdk.files.with_raw_response.create(file=file, purpose="batch"), patient=True)

        return str((await self._persist(send))["id"])

    async def create(self, batch: OpenBatch, *, perhaps_made: bool) -> str:
        """The id of the provider's batch over an uploaded file, made only if there is none with our tag."""
        failed: Counter[FailureKind] = Counter()
        while True:
            if perhaps_made and (found := await self._search(batch)):
                return found
            body = {
                "input_file_id": batch.input_file_id,
                "endpoint": ENDPOINT,
                "completion_window": self._window,
                "metadata": {_TAG: batch.tag},
            }
            try:
                return str((await self._ask(self._client.sdk.post("/batches", body=body, cast_to=Response)))["id"])
            except ProviderError as error:
                await self._pause(error, failed)
                perhaps_made = True

    async def show(self, batch_id: str) -> BatchStatus:
        """How far a batch is."""
        asked = f"/batches/{batch_id}"
        found = await self._persist(lambda: self._ask(self._client.sdk.get(asked, cast_to=Response)))
        problems = [each for each in (found.get("errors") or {}).get("data") or [] if isinstance(each, dict)]
        said = (
            f"line {each['line']}: {each.get('message')}" if each.get("line") else str(each.get("message"))
            for each in problems[:3]
        )
        files = (found.get("output_file_id"), found.get("error_file_id"))
        code = str(problems[0].get("code") or "") if problems else ""
        return BatchStatus(str(found.get("status")), tuple(str(each) for each in files if each), "; ".join(said), code)

    async def download(self, file_id: str, into: IO[bytes]) -> None:
        """Write a file's content into ``into``."""

        async def fetch() -> None:
            into.seek(0)
            into.truncate()
            async with self._client.sdk.files.with_streaming_response.content(file_id) as response:
                async for piece in response.iter_bytes(_PIECE_BYTES):
                    into.write(piece)

        async def ask() -> None:
            got = await self._client.get(fetch(), patient=True)
            if got is not None:
                self._read_json(got)

        await self._persist(ask)
        into.seek(0)

    async def _search(self, batch: OpenBatch) -> str | None:
        try:
            return await self._persist(lambda: self._find(batch))
        except ProviderError as error:
            # Also a clear no to this question leaves open whether there is a batch.
            raise ProviderError(error.failure, error.reply, None) from error

    async def _find(self, batch: OpenBatch) -> str | None:
        """The id of the provider's batch with our tag or over our file, which no other batch can have."""
        after = ""
        while True:
            asked = self._client.sdk.batches.with_raw_response.list(limit=_PAGE, after=after or openai.omit)
            page = await self._ask(asked)
            some = [each for each in page.get("data") or [] if isinstance(each, dict)]
            for each in some:
                tagged = (each.get("metadata") or {}).get(_TAG) == batch.tag
                if tagged or each.get("input_file_id") == batch.input_file_id:
                    return str(each["id"])
            if not some or not page.get("has_more") or _made(some[-1]) < batch.created - _CLOCKS_APART:
                return None
            after = str(some[-1]["id"])

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        failed: Counter[FailureKind] = Counter()
        while True:
            try:
                return await call()
            except ProviderError as error:
                await self._pause(error, failed)

    async def _pause(self, error: ProviderError, failed: Counter[FailureKind]) -> None:
        """Wait until the next attempt.

        Raises:
            ProviderError: there should be none.
        """
        kind = error.failure.kind
        failed[kind] += 1
        pause = pause_before_retry(
            self._config,
            kind=kind,
            failed=failed,
            retry_after_seconds=error.reply.retry_after_seconds,
            rng=self._rng,
        )
        if pause is None or error.reply.endpoint_at_fault:
            raise error
        await asyncio.sleep(pause)

    async def _ask(self, asked: Awaitable[Any], *, patient: bool = False) -> dict[str, Any]:
        return self._read_json(await self._client.get(asked, patient=patient))

    def _read_json(self, got: Any) -> dict[str, Any]:
        if isinstance(got, Reply):
            raise _failed(got, None)
        response: Response = getattr(got, "http_response", got)
        body = json_or_text(self._client.text(response))
        if response.status_code == 200 and isinstance(body, dict):
            return body
        if response.status_code == 200:
            raise _failed(Reply(Failure("server", "the reply is no JSON object")), 200)
        raise _failed(read_error(response.status_code, body, raw=None, headers=response.headers), response.status_code)


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
        until = batch.created + _window(limits) + _KEPT_LONGER
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
    return error.status == 404 and (free or utc_now() > batch.created + _window(limits) + _KEPT_LONGER)


def why_unreached(batch: OpenBatch, status: BatchStatus, endpoint: Endpoint) -> Reply:
    """What rows of a batch that has ended failed of when no line of its files says so."""
    name = f"batch {batch.provider_id} of {endpoint.base_url}"
    at_fault = False
    if status.status == "expired":
        failure = Failure("timeout", f"{name} expired before this request was made")
    elif status.status == "cancelled":
        failure, at_fault = Failure("connection", f"{name} was cancelled there; the same command asks again"), True
    elif status.code == _FULL_QUEUE:
        failure = Failure("rate_limited", f"{name} found no room: {status.problems}")
    elif status.status == "failed":
        remedy = "Check the model's name, batch.max_rows and batch.max_bytes; then the same command goes on"
        failure, at_fault = Failure("connection", f"{name} was not taken: {status.problems}. {remedy}."), True
    else:
        failure = Failure("server", f"{name} ended without a word on this request")
    return Reply(failure, attempts=0, endpoint_at_fault=at_fault)


def _made(batch: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(batch.get("created_at") or 0, UTC).replace(tzinfo=None)


def _kind(error: ProviderError) -> FailureKind:
    return "connection" if error.failure.kind in TERMINAL else error.failure.kind


def _window(limits: BatchConfig) -> timedelta:
    amount = int(limits.completion_window[:-1])
    return timedelta(hours=amount) if limits.completion_window.endswith("h") else timedelta(days=amount)


def _failed(reply: Reply, status: int | None) -> ProviderError:
    assert isinstance(reply.outcome, Failure)
    return ProviderError(reply.outcome, reply, status)


@dataclass(frozen=True, slots=True)
class BatchFile:
    """One input file."""

    rows: Mapping[str, Request]
    """By key, in the order of the lines."""
    content: bytes


def split_files(requests: Mapping[str, Request], limits: BatchConfig, endpoint: Endpoint) -> Iterator[BatchFile]:
    """The input files of ``requests``; those of one file have run, role, model and identity in common."""
    alike: dict[tuple[str, ...], dict[str, Request]] = {}
    for key, request in requests.items():
        alike.setdefault((request.run, request.role, request.model, request.identity), {})[key] = request
    for group in alike.values():
        rows: dict[str, Request] = {}
        content = bytearray()
        for key, request in group.items():
            line = _line(key, request, endpoint)
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
                    else:
                        committing.append((key, reply, asyncio.wrap_future(store.put(key, request, reply))))
                for key, reply, committed in committing:
                    # Shielded: an interrupt must not take back what is on its way into the store.
                    bring(key, replace(reply, outcome=await asyncio.shield(committed)))
    for key in owed:
        store.settle(settlement(batch.attempts[key], unreached))
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


def _line(key: str, request: Request, endpoint: Endpoint) -> bytes:
    body = request_body(request, endpoint)
    row = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _read_response(response: dict[str, Any], endpoint: Endpoint) -> Reply:
    body = response.get("body")
    raw = hide_key(clean_text(json.dumps(body, ensure_ascii=False)), endpoint.api_key)
    if response["status_code"] == 200:
        return read_completion(raw, endpoint)
    return read_error(int(response["status_code"]), json.loads(raw), raw=raw)


def _unreached(error: dict[str, Any]) -> Failure:
    code, said = str(error.get("code") or ""), clean_text(str(error.get("message") or "no reply and no reason"))
    if code == "batch_expired":
        return Failure("timeout", f"the batch's time was over before this request was made: {said}")
    return Failure("server", f"the batch did not make this request: {code} {said}".strip())
