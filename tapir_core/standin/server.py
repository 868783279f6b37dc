"""The stand-in as a web application, and serving it until told to stop (docs/standin.md).

`tapir standin serve` runs it, and so does `python -m tapir_core.standin.server`. It starts in a fraction of a second:
nothing heavier than aiohttp is imported. Tests add faults, batches and a log to the same application
(tests/doubles/standin.py).
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

from aiohttp import web

from tapir_core.errors import ConfigError, TapirError
from tapir_core.standin import STANDIN_VERSION
from tapir_core.standin.batches import Batches
from tapir_core.standin.chat import model_list, reply_to
from tapir_core.standin.judge import Behaviour, Preference

CHAT = "/v1/chat/completions"

_GRACE_SECONDS = 2.0
"""For replies that are under way when the server is stopped."""
_LAST_CONNECTION_SECONDS = 0.05
"""For connections that are being accepted when the server is stopped."""
_LARGEST_BODY_BYTES = 512 * 2**20
"""Of an uploaded file."""


def make_application(behaviour: Behaviour, latency_ms: int = 0, *, batches: bool = True) -> web.Application:
    """The stand-in behind HTTP.

    Args:
        behaviour: What judgments depend on.
        latency_ms: Milliseconds before each chat reply.
        batches: Whether it serves batches; the tests have their own.
    """

    async def chat(request: web.Request) -> web.Response:
        content = await request.read()
        await asyncio.sleep(latency_ms / 1000)
        reply = reply_to(content, behaviour)
        return web.json_response(reply.body, status=reply.status)

    async def models(_: web.Request) -> web.Response:
        return web.json_response(model_list())

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": STANDIN_VERSION})

    application = web.Application(client_max_size=_LARGEST_BODY_BYTES)
    application.add_routes([web.post(CHAT, chat), web.get("/v1/models", models), web.get("/health", health)])
    application.add_routes(Batches(behaviour).routes() if batches else [])
    return application


@asynccontextmanager
async def listen(application: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve in the running loop while the block runs; gives the port, a free one for 0.

    At its end replies under way are sent.

    Raises:
        ConfigError: the address cannot be bound.
    """
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_GRACE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as exc:
        await runner.cleanup()
        raise ConfigError(
            f"the stand-in cannot listen on {host}:{port}: {exc}; choose another --port (0 takes a free one)"
        ) from exc
    try:
        yield runner.addresses[0][1]
    finally:
        # A connection whose acceptance has begun is seen through: asyncio loses its socket if the server goes first.
        await asyncio.sleep(_LAST_CONNECTION_SECONDS)
        await runner.cleanup()


async def serve(application: web.Application, host: str, port: int, port_file: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; the port is written to ``port_file`` once it listens.

    Raises:
        ConfigError: the address cannot be bound, or the file cannot be written.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with listen(application, host, port) as bound:
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
    given = make_parser().parse_args(arguments)
    behaviour = Behaviour(given.position_bias, given.noise, given.prefers, given.logprobs)
    application = make_application(behaviour, given.latency_ms)
    try:
        asyncio.run(serve(application, given.host, given.port, given.port_file))
    except TapirError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Serve the stand-in: a rule-based teacher and judge, no LLM.")
    options: tuple[tuple[str, Callable[[str], Any], Any, str], ...] = (
        ("--host", str, "127.0.0.1", "address to listen on"),
        ("--port", int, 0, "port; 0 takes a free one"),
        ("--position-bias", float, 0.5, "points added to the answer shown first"),
        ("--noise", float, 0.5, "standard deviation of the judge's scores, in points"),
        ("--latency-ms", int, 0, "milliseconds before each reply"),
        ("--port-file", Path, None, "write the port here once it listens"),
    )
    for name, kind, default, said in options:
        parser.add_argument(name, type=kind, default=default, help=said)
    preferences = get_args(Preference)
    parser.add_argument("--prefers", choices=preferences, default="better", help="which answer wins in benchmarks")
    said = "give no log-probabilities to who asks for them"
    parser.add_argument("--no-logprobs", dest="logprobs", action="store_false", help=said)
    return parser


if __name__ == "__main__":
    sys.exit(main())
