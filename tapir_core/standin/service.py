"""The stand-in as a web application: chat completions, models, health, counts, and a log of what was asked.

Limits: counts live as long as the process; the log, if there is one, is appended to and flushed line by line.
"""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TextIO

from aiohttp import web

from tapir_core.standin.judge import judge
from tapir_core.standin.sections import Ask, Kind, Refusal, Reply, read_ask
from tapir_core.standin.teacher import answer, expand, label, refine
from tapir_core.standin.version import STANDIN_VERSION
from tapir_core.standin.wire import BadRequest, completion, error_body, model_list, parse_chat

__all__ = ["Behaviour", "Service"]

_LARGEST_BODY_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a reply depends on besides its request; consulted in one place, `Service.chat`."""

    position_bias: float = 0.5
    """Points that the judge adds to the answer shown first."""
    noise: float = 0.5
    """Standard deviation of the judge's scores, in points."""
    latency_seconds: float = 0.0
    """Pause before each reply."""


class Service:
    """The stand-in behind HTTP: one instance a server."""

    def __init__(self, behaviour: Behaviour, log_path: Path | None = None) -> None:
        self.behaviour = behaviour
        self._log_path = log_path
        self._log: TextIO | None = None
        self._answered: Counter[Kind] = Counter()
        self._refused: Counter[Kind] = Counter()
        self._rejected = 0

    def application(self) -> web.Application:
        """The routes; the log is open while the application runs."""
        application = web.Application(client_max_size=_LARGEST_BODY_BYTES)
        application.router.add_post("/v1/chat/completions", self.chat)
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/health", self._health)
        application.router.add_get("/stats", self._stats)
        application.on_startup.append(self._open_log)
        application.on_cleanup.append(self._close_log)
        return application

    def stats(self) -> dict[str, Any]:
        """Requests so far: all, answered and refused by kind, rejected as wrong."""
        done = self._answered.total() + self._refused.total()
        return {
            "version": STANDIN_VERSION,
            "requests": done + self._rejected,
            "answered": dict(self._answered),
            "refused": dict(self._refused),
            "rejected": self._rejected,
        }

    async def chat(self, request: web.Request) -> web.Response:
        """One chat completion. A request counts, and is logged, when its reply is sent."""
        body = await request.read()
        if self.behaviour.latency_seconds:
            await asyncio.sleep(self.behaviour.latency_seconds)
        try:
            chat = parse_chat(_parse_json(body))
        except BadRequest as problem:
            self._rejected += 1
            self._record(body, "rejected", problem.status, None)
            return web.json_response(error_body(problem), status=problem.status)
        ask = read_ask(chat.messages, chat.seed)
        kind: Kind = ask.kind if isinstance(ask, Ask) else "answer"
        reply = _reply(ask, self.behaviour) if isinstance(ask, Ask) else ask
        refused = isinstance(reply, Refusal)
        (self._refused if refused else self._answered)[kind] += 1
        self._record(body, "refused" if refused else "answered", 200, kind)
        return web.json_response(completion(chat, reply, created=int(time.time())))

    def _record(
        self, body: bytes, outcome: Literal["answered", "refused", "rejected"], status: int, kind: Kind | None
    ) -> None:
        if self._log is None:
            return
        line = {
            "time": round(time.time(), 3),
            "kind": kind,
            "outcome": outcome,
            "sha256": sha256(body).hexdigest(),
            "status": status,
        }
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()

    async def _open_log(self, _: web.Application) -> None:
        self._log = self._log_path.open("a", encoding="utf-8") if self._log_path else None

    async def _close_log(self, _: web.Application) -> None:
        if self._log is not None:
            self._log.close()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response(model_list())

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": STANDIN_VERSION})

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.stats())


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from exc


def _reply(ask: Ask, behaviour: Behaviour) -> Reply:
    if ask.kind == "judge":
        return judge(ask, position_bias=behaviour.position_bias, noise=behaviour.noise)
    return {"answer": answer, "label": label, "expand": expand, "refine": refine}[ask.kind](ask)
