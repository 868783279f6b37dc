"""The stand-in with what only tests use: faults that were ordered, OpenAI's batches, counts and a log of its requests.

It is the product's own application, with a layer before its replies and more addresses. `StandinServer` runs it inside
this process, in a thread with a loop of its own; `python -m tests.doubles.standin` as a process (docs/standin.md).

Limits: counts, files and batches live as long as the process; the log, if there is one, is appended to and flushed line
by line.
"""

import argparse
import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any, Self, TextIO, get_args

from aiohttp import web

from tapir_core.errors import ConfigError, TapirError
from tapir_core.probing import PROMPT as PROBE
from tapir_core.standin import STANDIN_VERSION
from tapir_core.standin.rules import Behaviour, Kind, Preference
from tapir_core.standin.server import (
    CHAT,
    BadRequest,
    ChatReply,
    listen,
    make_application,
    rejection,
    serve,
)
from tests.doubles.batches import BatchApi, BatchRules, Handler
from tests.doubles.faults import FaultKind, Faults, FaultScript, Outcome, SentReply, describe, read_faults
from tests.doubles.provider import RecordedCall, Status
from tests.doubles.shapes import SHAPES


class Troubled:
    """One stand-in that fails as it is told, serves batches, and counts what it was asked."""

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        latency_ms: int = 0,
        faults: Faults | None = None,
        batches: BatchRules | None = None,
        log_path: Path | None = None,
        shape: str = "",
    ) -> None:
        """Prepare it.

        Args:
            behaviour: What judgments depend on; a shape has its own.
            latency_ms: Milliseconds before each chat reply.
            faults: What fails on purpose.
            batches: How batches go.
            log_path: Where each chat request leaves a JSON line.
            shape: The provider that chat completions are like, of `tests/doubles/shapes.py`; empty for the plain one.
        """
        self._shape = SHAPES[shape] if shape else None
        self._script = FaultScript(faults or Faults())
        self._batches = BatchApi(behaviour, batches or BatchRules(), self._script, self._record)
        self._log_path = log_path
        self._log: TextIO | None = None
        self._ended: Counter[tuple[Outcome, Kind | None]] = Counter()
        self._faults: Counter[FaultKind] = Counter()
        self.application = make_application(behaviour, latency_ms)
        """The log is open while it runs."""
        for method, address, handler in self._batches.routes():
            self.application.router.add_route(method, address, self._guard(handler))
        self.application.router.add_get("/stats", self._show_stats)
        self.application.middlewares.extend([_reject, self._strike])
        self.application.cleanup_ctx.append(self._while_running)
        self.application.on_shutdown.append(self._stop)

    def stats(self) -> dict[str, Any]:
        """Requests so far: all, answered and refused by kind, rejected as wrong, failed by order; faults by name."""
        by_outcome: dict[Outcome, Counter[Kind | None]] = {outcome: Counter() for outcome in get_args(Outcome)}
        for (outcome, kind), count in self._ended.items():
            by_outcome[outcome][kind] += count
        return {
            "version": STANDIN_VERSION,
            "requests": self._ended.total(),
            "answered": dict(by_outcome["answered"]),
            "refused": dict(by_outcome["refused"]),
            "rejected": by_outcome["rejected"].total(),
            "failed": by_outcome["failed"].total(),
            "faults": dict(self._faults),
        }

    async def _show_stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.stats())

    @web.middleware
    async def _strike(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """One chat completion. A request counts, and is logged, when its reply is sent or its fault begins.

        Probes are answered plainly, and do not count: tests count what stages ask.
        """
        if (request.method, request.path) != ("POST", CHAT):
            return await handler(request)
        content = await request.read()
        handler = self._in_shape if self._shape else handler
        if PROBE.encode() in content:
            return await handler(request)
        fault = self._script.next_fault(content)
        if fault == "hang" or fault == "reset":
            self._record(content, None, fault=fault)
            return await self._script.cut(request, fault)
        if fault == "slow":
            await asyncio.sleep(self._script.faults.slow_seconds)
        reply = self._script.spoil(await _described(request, handler), fault)
        self._record(content, reply, fault=fault)
        return await self._script.trickle(request, reply) if fault == "trickle" else _respond(reply)

    async def _in_shape(self, request: web.Request) -> web.Response:
        assert self._shape is not None
        call = RecordedCall(await request.json(), request.headers, time.monotonic())
        reply = self._shape(call)
        assert isinstance(reply, Status)
        return reply.to_response(call)

    def _guard(self, handler: Handler) -> Handler:
        """Words wrong requests as OpenAI does, and lets faults strike that do not need a chat request."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            # Drawn by address, not by content: the ids in addresses and the bounds of forms are new in each run.
            resource = request.match_info.route.resource
            fault = self._script.next_fault(f"{request.method} {resource and resource.canonical}".encode())
            if fault in {"429", "500", "hang", "reset", "slow"}:
                self._faults[fault] += 1
            if fault == "hang" or fault == "reset":
                return await self._script.cut(request, fault)
            if fault == "429" or fault == "500":
                return _respond(self._script.error(fault))
            if fault == "slow":
                await asyncio.sleep(self._script.faults.slow_seconds)
            try:
                return await handler(request)
            except BadRequest as problem:
                return _respond(describe(None, rejection(problem)))

        return guarded

    def _record(
        self, content: bytes, reply: SentReply | None, *, fault: FaultKind | None, batch: str | None = None
    ) -> None:
        """Count a chat request and write its line; no reply where none was sent, ``batch`` where it is a row of one."""
        outcome: Outcome = reply.outcome if reply else "failed"
        kind, status = (reply.kind, reply.status) if reply else (None, None)
        self._ended[outcome, kind] += 1
        if fault is not None:
            self._faults[fault] += 1
        if self._log is not None:
            line = {
                "time": round(time.time(), 3),
                "kind": kind,
                "outcome": outcome,
                "sha256": sha256(content).hexdigest(),
                "status": status,
                "fault": fault,
                "batch": batch,
            }
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()

    async def _while_running(self, _: web.Application) -> AsyncIterator[None]:
        with self._open_log() as self._log:
            self._script.start()
            yield
            await self._batches.close()

    def _open_log(self) -> Any:
        try:
            return self._log_path.open("a", encoding="utf-8") if self._log_path else nullcontext()
        except OSError as exc:
            raise ConfigError(f"the stand-in cannot write its log: {exc}; choose another --log") from exc

    async def _stop(self, _: web.Application) -> None:
        self._script.stopping.set()


@web.middleware
async def _reject(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Words a wrong request as OpenAI does."""
    try:
        return await handler(request)
    except BadRequest as problem:
        reply = rejection(problem)
        return web.json_response(reply.body, status=reply.status)


async def _described(request: web.Request, handler: Handler) -> SentReply:
    response = await handler(request)
    assert isinstance(response, web.Response)
    assert response.text is not None
    reply = ChatReply(response.status, json.loads(response.text))
    return describe(await request.json() if reply.status == 200 else None, reply)


def _respond(reply: SentReply) -> web.Response:
    return web.Response(text=reply.text, status=reply.status, headers=reply.headers, content_type="application/json")


class StandinServer:
    """A stand-in on a free port of the loopback address while the ``with`` block runs.

    Example::

        with StandinServer(noise=0.0) as server:
            client = OpenAI(base_url=server.base_url, api_key="none")
    """

    def __init__(
        self,
        *,
        position_bias: float = 0.5,
        noise: float = 0.5,
        prefers: Preference = "better",
        logprobs: bool = True,
        latency_ms: int = 0,
        faults: str = "",
        batches: BatchRules | None = None,
        log_path: Path | None = None,
    ) -> None:
        """Prepare the server; ``faults`` is a spec or a file (docs/standin.md).

        Raises:
            ConfigError: the faults are wrong.
        """
        behaviour = Behaviour(position_bias, noise, prefers, logprobs)
        self._service = Troubled(
            behaviour, latency_ms=latency_ms, faults=read_faults(faults), batches=batches, log_path=log_path
        )
        self._listening = listen(self._service.application, "127.0.0.1", 0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stand-in", daemon=True)
        self.base_url = ""
        """Address up to and with `/v1`, once the block runs."""

    def stats(self) -> dict[str, Any]:
        """What `GET /stats` says."""
        return self._service.stats()

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            port = asyncio.run_coroutine_threadsafe(self._listening.__aenter__(), self._loop).result()
        except BaseException:
            self._end_loop()
            raise
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._listening.__aexit__(None, None, None), self._loop).result()
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and serve; gives the exit code."""
    parser = argparse.ArgumentParser(description="Serve the stand-in, with faults, batches and a log.")
    rules = BatchRules()
    for name, default, said in (
        ("--port", 0, "port on 127.0.0.1; 0 takes a free one"),
        ("--position-bias", 0.5, "points added to the answer shown first"),
        ("--noise", 0.5, "standard deviation of the judge's scores, in points"),
        ("--latency-ms", 0, "milliseconds before each reply"),
        ("--batch-seconds", rules.seconds, "seconds that a batch takes"),
        ("--batch-expire-share", rules.expire_share, "share of batch rows that expire"),
        ("--batch-fail-share", rules.fail_share, "share of batch rows that fail with 500"),
        ("--batch-max-rows", rules.max_rows, "most rows of a batch file"),
        ("--batch-max-bytes", rules.max_bytes, "largest batch file"),
    ):
        parser.add_argument(name, type=type(default), default=default, help=said)
    parser.add_argument("--prefers", choices=get_args(Preference), default="better", help="what wins in benchmarks")
    parser.add_argument("--no-logprobs", dest="logprobs", action="store_false", help="give no log-probabilities")
    parser.add_argument(
        "--faults", default="", help="what fails on purpose: 429=0.1,hang@10-40, or a TOML or JSON file"
    )
    parser.add_argument("--shape", choices=SHAPES, default="", help="the provider that it is like; else the plain one")
    parser.add_argument("--log", type=Path, help="append one JSON line a request to this file")
    given = parser.parse_args(arguments)
    try:
        service = Troubled(
            Behaviour(given.position_bias, given.noise, given.prefers, given.logprobs),
            latency_ms=given.latency_ms,
            faults=read_faults(given.faults),
            batches=BatchRules(
                given.batch_seconds,
                given.batch_expire_share,
                given.batch_fail_share,
                given.batch_max_rows,
                given.batch_max_bytes,
            ),
            log_path=given.log,
            shape=given.shape,
        )
        asyncio.run(serve(service.application, "127.0.0.1", given.port))
    except TapirError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
