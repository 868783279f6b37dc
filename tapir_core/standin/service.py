"""The stand-in as a web application: chat completions, files, batches, models, health, counts.

Limits: counts, files and batches live as long as the process (docs/standin.md).
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from tapir_core.standin.batch_api import BatchApi
from tapir_core.standin.behaviour import Behaviour
from tapir_core.standin.chat import Outcome, reply_to
from tapir_core.standin.fault_replies import distort, error_reply, hang, reset, trickle
from tapir_core.standin.faults import FaultKind, FaultScript
from tapir_core.standin.files import FileStore
from tapir_core.standin.ledger import Ledger
from tapir_core.standin.version import STANDIN_VERSION
from tapir_core.standin.wire import BadRequest, error_body, model_list

__all__ = ["Service"]

_LARGEST_BODY_BYTES = 16 * 2**20
"""Of a chat request; uploads have their own limit."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service:
    """The stand-in behind HTTP: one instance a server."""

    def __init__(self, behaviour: Behaviour, log_path: Path | None = None) -> None:
        self.behaviour = behaviour
        self._ledger = Ledger(log_path)
        self._script = FaultScript(behaviour.faults) if behaviour.faults else None
        self._files = FileStore()
        self._batches = BatchApi(behaviour, self._files, self._ledger)
        self._stopping = asyncio.Event()

    def application(self) -> web.Application:
        """The routes; the log is open while the application runs."""
        application = web.Application(client_max_size=_LARGEST_BODY_BYTES)
        application.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.get("/v1/models", self._models),
                web.post("/v1/files", self._guard(self._files.upload)),
                web.get("/v1/files/{id}", self._guard(self._files.show)),
                web.delete("/v1/files/{id}", self._guard(self._files.delete)),
                web.get("/v1/files/{id}/content", self._guard(self._files.content)),
                web.get("/v1/batches", self._guard(self._batches.show_all)),
                web.post("/v1/batches", self._guard(self._batches.create)),
                web.get("/v1/batches/{id}", self._guard(self._batches.show)),
                web.post("/v1/batches/{id}/cancel", self._guard(self._batches.cancel)),
                web.get("/health", self._health),
                web.get("/stats", self._stats),
            ]
        )
        application.on_startup.append(self._start)
        application.on_shutdown.append(self._stop)
        application.on_cleanup.append(self._end)
        return application

    def stats(self) -> dict[str, Any]:
        """What `GET /stats` says."""
        return self._ledger.stats()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """One chat completion. A request counts, and is logged, when its reply is sent or its fault begins."""
        content = await request.read()
        fault = self._script.next_fault(content) if self._script else None
        if fault is not None:
            return await self._chat_with_fault(request, content, fault)
        if self.behaviour.latency_seconds:
            await asyncio.sleep(self.behaviour.latency_seconds)
        reply = reply_to(content, self.behaviour)
        self._ledger.record(content, reply.outcome, reply.status, reply.kind)
        return web.json_response(reply.body, status=reply.status)

    async def _chat_with_fault(self, request: web.Request, content: bytes, fault: FaultKind) -> web.StreamResponse:
        if fault in {"hang", "reset"}:
            self._ledger.record(content, "failed", None, None, fault=fault)
            return await hang(request, self._stopping) if fault == "hang" else reset(request)
        slow_seconds = self.behaviour.faults.slow_seconds
        await asyncio.sleep(self.behaviour.latency_seconds + (slow_seconds if fault == "slow" else 0))
        if fault in {"429", "500", "model"}:
            response = error_reply(fault, self.behaviour.faults)
            self._ledger.record(content, "failed", response.status, None, fault=fault)
            return response
        reply = reply_to(content, self.behaviour)
        # A request that is wrong in itself has no completion to distort: it is only rejected.
        if fault in {"truncated", "empty", "filter"} and reply.status == 200:
            outcome: Outcome = "refused" if fault == "filter" else "failed"
            self._ledger.record(content, outcome, 200, reply.kind, fault=fault)
            return distort(reply.body, fault)
        self._ledger.record(content, reply.outcome, reply.status, reply.kind, fault=fault)
        if fault == "trickle":
            return await trickle(request, reply.status, reply.body, slow_seconds)
        return web.json_response(reply.body, status=reply.status)

    def _guard(self, handler: Handler) -> Handler:
        """Words wrong requests as OpenAI does, and lets faults strike that do not need a chat request."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if (struck := await self._strike(request)) is not None:
                return struck
            try:
                return await handler(request)
            except BadRequest as problem:
                return web.json_response(error_body(problem), status=problem.status)

        return guarded

    async def _strike(self, request: web.Request) -> web.StreamResponse | None:
        """What a fault makes of a request to files or batches; nothing when it goes its way."""
        resource = request.match_info.route.resource
        if self._script is None or resource is None:
            return None
        # Drawn by address, not by content: the ids in addresses and the bounds of forms are new in each run.
        fault = self._script.next_fault(f"{request.method} {resource.canonical}".encode())
        if fault not in {"429", "500", "hang", "reset", "slow"}:
            return None
        self._ledger.count_fault(fault)
        if fault == "slow":
            await asyncio.sleep(self.behaviour.faults.slow_seconds)
            return None
        if fault in {"hang", "reset"}:
            return await hang(request, self._stopping) if fault == "hang" else reset(request)
        return error_reply(fault, self.behaviour.faults)

    async def _start(self, _: web.Application) -> None:
        self._ledger.open()
        if self._script is not None:
            self._script.start()

    async def _stop(self, _: web.Application) -> None:
        self._stopping.set()

    async def _end(self, _: web.Application) -> None:
        await self._batches.close()
        self._ledger.close()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response(model_list())

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": STANDIN_VERSION})

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.stats())
