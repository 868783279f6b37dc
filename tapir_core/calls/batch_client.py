"""Files and batches of one provider over HTTP: OpenAI's Batch API, each call with its retries, and what may go wrong.

A batch carries our tag as metadata. Before a creation whose reply was lost is repeated, the batch is looked for. What
goes wrong with a batch as a whole is one failure for all its rows, and always retryable: it says nothing about a row.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import IO, Any, TypeVar

import aiohttp

from tapir_core.calls.batch_rows import OpenBatch
from tapir_core.calls.client import CONNECT_SECONDS, FOREIGN_ERRORS, Client, json_or_text
from tapir_core.calls.limits import pause_before_retry
from tapir_core.calls.prices import is_local
from tapir_core.calls.store_tables import utc_now
from tapir_core.calls.types import TERMINAL, Endpoint, Failure, FailureKind
from tapir_core.calls.wire import Reply, read_error
from tapir_core.config import BatchConfig, CallsConfig

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

T = TypeVar("T")


class ProviderError(Exception):
    """Raised when a call has failed for good; never leaves the engine."""

    def __init__(self, failure: Failure, reply: Reply, status: int | None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.reply = reply
        self.status = status
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


class BatchClient(Client):
    """Files and batches at the first address of an endpoint. Belongs to one event loop."""

    def __init__(self, endpoint: Endpoint, limits: BatchConfig, config: CallsConfig, *, rng: random.Random) -> None:
        """Prepare the connections; none is opened yet.

        Raises:
            ConfigError: the address holds a user name or password, or the key cannot be sent.
        """
        super().__init__(endpoint, timeout_seconds=config.timeout_seconds)
        self._base = endpoint.base_url.rstrip("/")
        self._window = limits.completion_window
        self._config = config
        self._rng = rng
        # A large file takes as long as it takes, as long as something moves.
        self._patient = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=config.timeout_seconds)

    @property
    def tokens_field(self) -> str:
        """What this address calls the longest answer."""
        return self._tokens_field

    async def upload(self, name: str, content: bytes) -> str:
        """The id of a new input file."""
        return str((await self._persist(lambda: self._upload(name, content)))["id"])

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
                return str((await self._call("POST", "/batches", json=body))["id"])
            except ProviderError as error:
                await self._pause(error, failed)
                perhaps_made = True

    async def show(self, batch_id: str) -> BatchStatus:
        """How far a batch is."""
        found = await self._persist(lambda: self._call("GET", f"/batches/{batch_id}"))
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
            address = f"{self._base}/files/{file_id}/content"
            try:
                async with self._session.get(
                    address, headers=self._headers, timeout=self._patient, **self._proxy
                ) as response:
                    if response.status != 200:
                        await self._read_json(response)
                    async for piece in response.content.iter_chunked(_PIECE_BYTES):
                        into.write(piece)
            except FOREIGN_ERRORS as error:
                raise _failed(self._read_foreign(error), None) from error

        await self._persist(fetch)
        into.seek(0)

    async def _upload(self, name: str, content: bytes) -> dict[str, Any]:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", BytesIO(content), filename=name, content_type="application/jsonl")
        return await self._call("POST", "/files", data=form, timeout=self._patient)

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
            page = await self._call(
                "GET", "/batches", params={"limit": str(_PAGE)} | ({"after": after} if after else {})
            )
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

    async def _call(self, method: str, path: str, **sent: Any) -> dict[str, Any]:
        headers = {name: value for name, value in self._headers.items() if name != "Content-Type"}
        try:
            async with self._session.request(
                method, self._base + path, headers=headers, **self._proxy, **sent
            ) as response:
                return await self._read_json(response)
        except FOREIGN_ERRORS as error:
            raise _failed(self._read_foreign(error), None) from error

    async def _read_json(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        body = json_or_text(self._text(await response.read()))
        if response.status == 200 and isinstance(body, dict):
            return body
        if response.status == 200:
            raise _failed(Reply(Failure("server", "the reply is no JSON object")), 200)
        raise _failed(read_error(response.status, body, raw=None, headers=response.headers), response.status)


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
