"""The addresses of the stand-in's batches: OpenAI's batch API over the same rules that answer single requests.

Limits: everything is in memory, so that nothing survives the server; one endpoint and one completion window.
"""

import asyncio
import secrets
from typing import Any

from aiohttp import web

from tapir_core.standin.batch_rows import ENDPOINT
from tapir_core.standin.batches import WINDOW, Batch, BatchRunner
from tapir_core.standin.behaviour import Behaviour
from tapir_core.standin.files import FileStore
from tapir_core.standin.ledger import Ledger
from tapir_core.standin.wire import BadRequest

__all__ = ["BatchApi"]

_LARGEST_PAGE = 100


class BatchApi:
    """All batches of one server, and the handlers of their addresses."""

    def __init__(self, behaviour: Behaviour, files: FileStore, ledger: Ledger) -> None:
        self._files = files
        self._runner = BatchRunner(behaviour, files, ledger)
        self._batches: dict[str, Batch] = {}
        self._lives: set[asyncio.Task[None]] = set()
        # Ids are new in each server: one of an earlier server must be unknown here, not another batch.
        self._server = secrets.token_hex(4)

    async def create(self, request: web.Request) -> web.Response:
        """`POST /v1/batches`: start a batch over an uploaded file."""
        asked = await _read_object(request)
        for name, wanted in (("endpoint", ENDPOINT), ("completion_window", WINDOW)):
            if asked.get(name) != wanted:
                raise BadRequest(f"'{name}' must be {wanted!r}, not {asked.get(name)!r}")
        source = self._files.get(str(asked.get("input_file_id")))
        if source.purpose != "batch":
            raise BadRequest(f"{source.id} has the purpose {source.purpose!r}, but a batch needs 'batch'")
        batch = Batch(f"batch_{self._server}_{len(self._batches) + 1:04d}", source.id, asked.get("metadata"))
        self._batches[batch.id] = batch
        life = asyncio.create_task(self._runner.run(batch, source.content), name=batch.id)
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        return web.json_response(batch.to_json())

    async def show(self, request: web.Request) -> web.Response:
        """`GET /v1/batches/{id}`."""
        return web.json_response(self._get(request.match_info["id"]).to_json())

    async def cancel(self, request: web.Request) -> web.Response:
        """`POST /v1/batches/{id}/cancel`."""
        batch = self._get(request.match_info["id"])
        if batch.status in {"validating", "in_progress"}:
            batch.cancel()
        elif batch.status not in {"cancelling", "cancelled"}:
            raise BadRequest(f"Cannot cancel a batch with status '{batch.status}'.", status=409)
        return web.json_response(batch.to_json())

    async def show_all(self, request: web.Request) -> web.Response:
        """`GET /v1/batches`: newest first, `limit` a page, going on behind the id `after`."""
        limit, after = request.query.get("limit", "20"), request.query.get("after")
        if not limit.isdecimal() or not 1 <= int(limit) <= _LARGEST_PAGE:
            raise BadRequest(f"'limit' must be an integer from 1 to {_LARGEST_PAGE}, not {limit!r}")
        newest_first = list(reversed(self._batches.values()))
        begin = newest_first.index(self._get(after)) + 1 if after else 0
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

    async def close(self) -> None:
        """End the batches that are under way, unfinished."""
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)

    def _get(self, batch_id: str) -> Batch:
        batch = self._batches.get(batch_id)
        if batch is None:
            raise BadRequest(f"No batch found with id '{batch_id}'.", status=404)
        return batch


async def _read_object(request: web.Request) -> dict[str, Any]:
    try:
        value = await request.json()
    except ValueError as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value
