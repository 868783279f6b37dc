"""Files and batches of one provider: OpenAI's Batch API over HTTP, the lines of its files, and its failures.

A batch carries our tag as metadata. If the reply to a creation was lost, the batch is searched for before another is
made. A failure of a whole batch is a failure of all its rows, and always retryable: it says nothing about a row.

The id of a line is the store's key of its request. Rows without a proper outcome are returned with the reason, so that
they are sent again: rows that failed or expired, and rows that are in neither file.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import IO, Any

from httpx2 import Response
from openai.types import Batch

from tapir_core.calls import store_tables, store_writes, types, wire
from tapir_core.calls.client import Client, hide_keys, timeout_of
from tapir_core.config import BatchConfig, CallsConfig

_ENDPOINT = "/v1/chat/completions"
_TAG = "tapir"
"""Name of our metadata field."""
_CLOCKS_APART = timedelta(days=1)
"""How much older than ours a batch may be to be searched."""
_KEPT_LONGER = timedelta(days=1)
"""How long after its window an unknown batch may still turn up."""
REFUSED = "refused"
"""State of a batch that its provider never received."""
_FULL_QUEUE = "token_limit_exceeded"
"""OpenAI's code for too many tokens in waiting batches: other batches have to end first."""
ENDINGS: Mapping[str, tuple[types.FailureKind, bool, str]] = {
    "completed": ("server", False, "batch {batch} of {at} ended without a word on this request"),
    "expired": ("timeout", False, "batch {batch} of {at} expired before this request was made"),
    "cancelled": ("connection", True, "batch {batch} of {at} was cancelled there; the same command asks again"),
    "failed": (
        "connection",
        True,
        "batch {batch} of {at} was not taken: {said}. Check the model's name, batch.max_rows and batch.max_bytes; then "
        "the same command goes on.",
    ),
    _FULL_QUEUE: ("rate_limited", False, "batch {batch} of {at} found no room: {said}"),
    store_writes.LOST: ("server", False, "{at} knows batch {batch} no more"),
    "unknown": (
        "connection",
        True,
        "{at} does not know batch {batch}, made at {made_at}. Use that address and a key of the project that made it; "
        "after {said} its requests are asked anew.",
    ),
}
"""How a batch ended → for rows in no file: kind of failure, whether all requests would fail so, and message."""


@dataclass(eq=False)
class ProviderError(Exception):
    """Raised when a request about a file or a batch failed. Never leaves the engine."""

    reply: wire.Reply
    status: int | None = None
    """HTTP status; None if there was no reply."""

    @property
    def is_final(self) -> bool:
        """Whether a retry would fail the same way."""
        return self.reply.endpoint_at_fault or self.reply.failure.kind in types.TERMINAL


class BatchClient(Client):
    """Files and batches at the first address of an endpoint. Belongs to one event loop.

    The SDK retries everything but creations: a batch that may exist is searched for first.
    """

    def __init__(self, endpoint: types.Endpoint, limits: BatchConfig, config: CallsConfig) -> None:
        """Prepare the connections; none is opened yet.

        Raises:
            ConfigError: the address holds a user name or password, or the key cannot be sent.
        """
        super().__init__(endpoint, timeout_seconds=timeout_of(endpoint, config))
        self._repeating = self.sdk.with_options(max_retries=config.max_attempts - 1)
        self._window = limits.completion_window

    async def upload(self, name: str, content: bytes) -> str:
        """The id of a new input file."""
        asked = self._repeating.files.with_raw_response.create(
            file=(name, content, "application/jsonl"), purpose="batch"
        )
        return str(self._read(await self.get(asked, patient=True))["id"])

    async def create(self, batch: store_writes.OpenBatch) -> str:
        """The id of the provider's batch over an uploaded file; made only if none has our tag."""
        if batch.perhaps_made and (found := await self._find(batch)):
            return found
        body = {
            "input_file_id": batch.input_file_id,
            "endpoint": _ENDPOINT,
            "completion_window": self._window,
            "metadata": {_TAG: batch.tag},
        }
        batch.perhaps_made = True
        try:
            return str(self._read(await self.get(self.sdk.post("/batches", body=body, cast_to=Response)))["id"])
        except ProviderError as error:
            batch.perhaps_made = not error.is_final
            raise

    async def show(self, batch_id: str) -> Batch:
        """The current state of a batch."""
        return Batch.construct(
            **self._read(await self.get(self._repeating.get(f"/batches/{batch_id}", cast_to=Response)))
        )

    async def download(self, file_id: str, into: IO[bytes]) -> None:
        """Write a file's content into ``into``, which is empty."""

        async def fetch() -> None:
            async with self._repeating.files.with_streaming_response.content(file_id) as response:
                async for piece in response.iter_bytes():
                    into.write(piece)

        if (refused := await self.get(fetch(), patient=True)) is not None:
            self._read(refused)
        into.seek(0)

    async def _find(self, batch: store_writes.OpenBatch) -> str:
        """The id of the provider's batch with our tag or over our file; empty if there is none."""
        asked: dict[str, object] = {"limit": 100}
        oldest = (batch.created - _CLOCKS_APART).replace(tzinfo=UTC).timestamp()
        while True:
            page = self._read(
                await self.get(self._repeating.get("/batches", cast_to=Response, options={"params": asked}))
            )
            shown = [Batch.construct(**each) for each in page.get("data") or [] if isinstance(each, dict)]
            for each in shown:
                if (each.metadata or {}).get(_TAG) == batch.tag or each.input_file_id == batch.input_file_id:
                    return each.id
            if not shown or not page.get("has_more") or (shown[-1].created_at or 0) < oldest:
                return ""
            asked["after"] = shown[-1].id

    def _read(self, got: Any) -> dict[str, Any]:
        """The JSON object of a response.

        Raises:
            ProviderError: there is none.
        """
        if isinstance(got, wire.Reply):
            raise ProviderError(got)
        response: Response = getattr(got, "http_response", got)
        body = wire.json_or_text(self.text(response.content))
        if response.is_success and isinstance(body, dict) and {"id", "data"} & body.keys():
            return body
        raise ProviderError(
            wire.read_error(response.status_code, body, raw=None, headers=response.headers), response.status_code
        )


def state_after(
    error: ProviderError, batch: store_writes.OpenBatch, endpoint: types.Endpoint, limits: BatchConfig
) -> str:
    """The state of a batch after an error; empty if it is left to the next process that asks.

    If the provider no longer knows the batch, its requests are sent again once that costs nothing: the batch was free,
    or its time is long over.
    """
    if not batch.provider_id:
        return "" if batch.perhaps_made else REFUSED
    is_free = types.is_local(endpoint.base_url) and not endpoint.usd(1, 1)
    return (
        store_writes.LOST
        if error.status == 404 and (is_free or store_tables.utc_now() > _kept_until(batch, limits))
        else ""
    )


def why_left(
    error: ProviderError, state: str, batch: store_writes.OpenBatch, endpoint: types.Endpoint, limits: BatchConfig
) -> wire.Reply:
    """The failure of all rows of a batch that could not be continued and is now in ``state``."""
    failure = error.reply.failure
    if batch.provider_id and error.status == 404:
        return _as_reply(state or "unknown", batch, endpoint, f"{_kept_until(batch, limits):%Y-%m-%d %H:%M} UTC")
    said = (
        f"batch {batch.provider_id} goes on at {endpoint.base_url}, which does not say how"
        if batch.provider_id
        else f"{endpoint.base_url} takes no batch"
    )
    remedy = "Wait until it answers again"
    if failure.kind == "unauthorized":
        remedy = endpoint.key_remedy
    elif error.is_final and not batch.provider_id:
        remedy = 'Check base_url and that it offers the Batch API, or set mode = "live"'
    message = f"{said} ({failure.message}). {remedy}; then the same command goes on."
    return replace(
        error.reply,
        outcome=types.Failure("connection" if failure.kind in types.TERMINAL else failure.kind, message),
        spent=types.Spend(),
        endpoint_at_fault=error.is_final or state == REFUSED,
    )


def why_unreached(batch: store_writes.OpenBatch, shown: Batch, endpoint: types.Endpoint) -> wire.Reply:
    """The failure of rows of an ended batch that are in none of its files."""
    problems = (shown.errors and shown.errors.data) or []
    said = [f"line {each.line}: {each.message}" if each.line else str(each.message) for each in problems[:3]]
    ending = _FULL_QUEUE if problems and problems[0].code == _FULL_QUEUE else shown.status
    return _as_reply(ending, batch, endpoint, "; ".join(said))


def _as_reply(ending: str, batch: store_writes.OpenBatch, endpoint: types.Endpoint, said: str) -> wire.Reply:
    kind, at_fault, text = ENDINGS[ending]
    message = text.format(batch=batch.provider_id, at=endpoint.base_url, made_at=batch.address, said=said)
    return wire.Reply(types.Failure(kind, message), types.Spend(), endpoint_at_fault=at_fault)


def _kept_until(batch: store_writes.OpenBatch, limits: BatchConfig) -> datetime:
    amount, unit = int(limits.completion_window[:-1]), limits.completion_window[-1]
    return batch.created + timedelta(hours=amount if unit == "h" else 24 * amount) + _KEPT_LONGER


def split_rows(
    requests: Mapping[str, types.Request], limits: BatchConfig, endpoint: types.Endpoint
) -> Iterator[dict[str, types.Request]]:
    """The requests of each input file, by key; all in one file have the same run, role, model and identity."""
    begun: dict[tuple[str, ...], dict[str, types.Request]] = {}
    sizes = Counter[tuple[str, ...]]()
    for key, request in requests.items():
        alike = request.run, request.role, request.model, request.identity
        rows, size = begun.setdefault(alike, {}), len(_line(key, request, endpoint))
        if rows and (len(rows) >= limits.max_rows or sizes[alike] + size > limits.max_bytes):
            yield rows
            rows = begun[alike] = {}
            sizes[alike] = 0
        rows[key] = request
        sizes[alike] += size
    yield from begun.values()


def write_file(rows: Mapping[str, types.Request], endpoint: types.Endpoint) -> bytes:
    """An input file: one line for each request."""
    return b"".join(_line(key, request, endpoint) for key, request in rows.items())


def _line(key: str, request: types.Request, endpoint: types.Endpoint) -> bytes:
    row = {"custom_id": key, "method": "POST", "url": _ENDPOINT, "body": wire.request_body(request, endpoint)}
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read_line(
    line: bytes, endpoint: types.Endpoint, requests: Mapping[str, types.Request]
) -> tuple[str, wire.Reply] | None:
    """Key and reply of a line of an output or error file; None if it is no such line.

    The reply's raw text is only the body of the chat completion, as in a live call.
    """
    row = wire.json_or_text(line.decode("utf-8", "replace"))
    if not isinstance(row, dict) or not isinstance(row.get("custom_id"), str):
        return None
    response, error = row.get("response"), row.get("error")
    if isinstance(response, dict) and str(response.get("status_code")).isdecimal():
        raw = hide_keys(json.dumps(response.get("body"), ensure_ascii=False), endpoint)
        if 200 <= (status := int(response["status_code"])) < 300:
            request = requests.get(row["custom_id"])
            return row["custom_id"], wire.read_completion(
                raw, endpoint, request if request and request.messages else None
            )
        return row["custom_id"], wire.read_error(status, json.loads(raw), raw=raw)
    error = error if isinstance(error, dict) else {}
    said = f"{error.get('code') or ''} {error.get('message') or 'no reply and no reason'}"
    message = hide_keys(wire.clean_text(f"the batch did not make this request: {said}"), endpoint)
    kind: types.FailureKind = "timeout" if error.get("code") == "batch_expired" else "server"
    return row["custom_id"], wire.Reply(types.Failure(kind, message), types.Spend())
