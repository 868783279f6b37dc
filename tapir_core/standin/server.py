"""The stand-in as a web application, and serving it until told to stop (docs/standin.md).

`tapir standin serve` runs it, and so does `python -m tapir_core.standin.server`. It starts in a fraction of a second:
nothing heavier than aiohttp is imported.

Limits: counts, files and batches live as long as the process; the log, if there is one, is appended to and flushed line
by line.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO, get_args

from aiohttp import web

from tapir_core.errors import ConfigError, TapirError
from tapir_core.standin import STANDIN_VERSION
from tapir_core.standin.batches import BatchApi, BatchRules, Handler
from tapir_core.standin.chat import BadRequest, ChatReply, Outcome, model_list, rejection, reply_to
from tapir_core.standin.faults import FaultKind, Faults, FaultScript, read_faults
from tapir_core.standin.judge import Behaviour, Preference
from tapir_core.standin.teacher import Kind

__all__ = ["Service", "listen", "main", "run_server"]

_GRACE_SECONDS = 2.0
"""For replies that are under way when the server is stopped."""
_LAST_CONNECTION_SECONDS = 0.05
"""For connections that are being accepted when the server is stopped."""
_LARGEST_BODY_BYTES = 16 * 2**20
"""Of a chat request; uploads have their own limit."""


class Service:
    """The stand-in behind HTTP: one instance a server."""

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        latency_ms: int = 0,
        faults: Faults | None = None,
        batches: BatchRules | None = None,
        log_path: Path | None = None,
    ) -> None:
        """Prepare it.

        Args:
            behaviour: What judgments depend on.
            latency_ms: Milliseconds before each chat reply.
            faults: What fails on purpose.
            batches: How batches go.
            log_path: Where each chat request leaves a JSON line.
        """
        self._behaviour = behaviour
        self._latency_seconds = latency_ms / 1000
        self._script = FaultScript(faults or Faults())
        self._batches = BatchApi(behaviour, batches or BatchRules(), self._script, self._record)
        self._log_path = log_path
        self._log: TextIO | None = None
        self._ended: Counter[tuple[Outcome, Kind | None]] = Counter()
        self._faults: Counter[FaultKind] = Counter()

    def application(self) -> web.Application:
        """The routes; the log is open while the application runs."""
        application = web.Application(client_max_size=_LARGEST_BODY_BYTES)
        application.router.add_post("/v1/chat/completions", self._chat)
        for method, address, handler in self._batches.routes():
            application.router.add_route(method, address, self._guard(handler))
        shown = {
            "/v1/models": model_list,
            "/health": lambda: {"status": "ok", "version": STANDIN_VERSION},
            "/stats": self.stats,
        }
        for address, say in shown.items():
            application.router.add_get(address, _show(say))
        application.cleanup_ctx.append(self._while_running)
        application.on_shutdown.append(self._stop)
        return application

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

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        """One chat completion. A request counts, and is logged, when its reply is sent or its fault begins."""
        content = await request.read()
        fault = self._script.next_fault(content)
        if fault == "hang" or fault == "reset":
            self._record(content, None, fault=fault)
            return await self._script.cut(request, fault)
        if delay := self._latency_seconds + (self._script.faults.slow_seconds if fault == "slow" else 0):
            await asyncio.sleep(delay)
        reply = self._script.spoil(reply_to(content, self._behaviour), fault)
        self._record(content, reply, fault=fault)
        return await self._script.trickle(request, reply) if fault == "trickle" else _respond(reply)

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
                return _respond(rejection(problem))

        return guarded

    def _record(
        self, content: bytes, reply: ChatReply | None, *, fault: FaultKind | None, batch: str | None = None
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
        with self._log_path.open("a", encoding="utf-8") if self._log_path else nullcontext() as self._log:
            self._script.start()
            yield
            await self._batches.close()

    async def _stop(self, _: web.Application) -> None:
        self._script.stopping.set()


@asynccontextmanager
async def listen(service: Service, host: str, port: int) -> AsyncIterator[int]:
    """Serve in the running loop while the block runs; gives the port, a free one for 0.

    At its end replies under way are sent, and the log is closed.

    Raises:
        ConfigError: the address cannot be bound, or the log cannot be written.
    """
    runner = web.AppRunner(service.application(), access_log=None, shutdown_timeout=_GRACE_SECONDS)
    try:
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
    except OSError as exc:
        await runner.cleanup()
        raise ConfigError(
            f"the stand-in cannot listen on {host}:{port} or write its log: {exc}; "
            "choose another --port (0 takes a free one) or another --log"
        ) from exc
    try:
        yield runner.addresses[0][1]
    finally:
        # A connection whose acceptance has begun is seen through: asyncio loses its socket if the server goes first.
        await asyncio.sleep(_LAST_CONNECTION_SECONDS)
        await runner.cleanup()


def run_server(service: Service, host: str = "127.0.0.1", port: int = 0, port_file: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; the port is written to ``port_file`` once it listens.

    Raises:
        ConfigError: the address cannot be bound, or a file cannot be read or written.
    """
    asyncio.run(_serve(service, host, port, port_file))


async def _serve(service: Service, host: str, port: int, port_file: Path | None) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with listen(service, host, port) as bound:
        if port_file is not None:
            _write_port(port_file, bound)
        print(f"stand-in ready at http://{host}:{bound}/v1", flush=True)
        await stopped.wait()


def _write_port(path: Path, port: int) -> None:
    """In one step: whoever waits for the file never reads half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(f"{port}\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as exc:
        raise ConfigError(f"the port file {path} cannot be written: {exc}; choose another --port-file") from exc


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and serve; gives the exit code."""
    given = _parser().parse_args(arguments)
    try:
        service = Service(
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
        )
        run_server(service, given.host, given.port, given.port_file)
    except TapirError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Serve the stand-in: a rule-based teacher and judge, no LLM.")
    rules = BatchRules()
    options: tuple[tuple[str, Callable[[str], Any], Any, str], ...] = (
        ("--host", str, "127.0.0.1", "address to listen on"),
        ("--port", int, 0, "port; 0 takes a free one"),
        ("--position-bias", float, 0.5, "points added to the answer shown first"),
        ("--noise", float, 0.5, "standard deviation of the judge's scores, in points"),
        ("--latency-ms", int, 0, "milliseconds before each reply"),
        ("--faults", str, "", "what fails on purpose: 429=0.1,hang@10-40, or a TOML or JSON file"),
        ("--batch-seconds", float, rules.seconds, "seconds that a batch takes"),
        ("--batch-expire-share", float, rules.expire_share, "share of batch rows that expire"),
        ("--batch-fail-share", float, rules.fail_share, "share of batch rows that fail with 500"),
        ("--batch-max-rows", int, rules.max_rows, "most rows of a batch file"),
        ("--batch-max-bytes", int, rules.max_bytes, "largest batch file"),
        ("--log", Path, None, "append one JSON line a request to this file"),
        ("--port-file", Path, None, "write the port here once it listens"),
    )
    for name, kind, default, said in options:
        parser.add_argument(name, type=kind, default=default, help=said)
    preferences = get_args(Preference)
    parser.add_argument("--prefers", choices=preferences, default="better", help="which answer wins in benchmarks")
    said = "give no log-probabilities to who asks for them"
    parser.add_argument("--no-logprobs", dest="logprobs", action="store_false", help=said)
    return parser


def _show(say: Callable[[], Any]) -> Handler:
    async def show(_: web.Request) -> web.Response:
        return web.json_response(say())

    return show


def _respond(reply: ChatReply) -> web.Response:
    return web.Response(text=reply.text, status=reply.status, headers=reply.headers, content_type="application/json")


if __name__ == "__main__":
    sys.exit(main())
