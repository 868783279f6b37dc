"""Serving the stand-in until told to stop: `tapir standin serve`, or `python -m tapir_core.standin.server`.

Starts in a fraction of a second: nothing heavier than aiohttp is imported.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from aiohttp import web

from tapir_core.errors import ConfigError, TapirError
from tapir_core.standin.behaviour import BatchRules, Behaviour, Preference
from tapir_core.standin.fault_spec import read_faults
from tapir_core.standin.service import Service

__all__ = ["Listening", "listen", "main", "run_server"]

_GRACE_SECONDS = 2.0
"""For replies that are under way when the server is stopped."""
_LAST_CONNECTION_SECONDS = 0.05
"""For connections that are being accepted when the server is stopped."""


class Listening:
    """A service that accepts connections at ``base_url`` until it is closed."""

    def __init__(self, runner: web.AppRunner, host: str, port: int) -> None:
        self.port = port
        self.base_url = f"http://{host}:{port}/v1"
        self._runner = runner

    async def close(self) -> None:
        """Stop listening, let replies under way end, close the log."""
        # A connection whose acceptance has begun is seen through: asyncio loses its socket if the server goes first.
        await asyncio.sleep(_LAST_CONNECTION_SECONDS)
        await self._runner.cleanup()


async def listen(service: Service, host: str, port: int) -> Listening:
    """Bind and serve in the running loop; port 0 takes a free one.

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
    return Listening(runner, host, runner.addresses[0][1])


def run_server(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    position_bias: float = 0.5,
    noise: float = 0.5,
    prefers: Preference = "better",
    logprobs: bool = True,
    latency_ms: int = 0,
    faults: str = "",
    batches: BatchRules | None = None,
    log_path: Path | None = None,
    port_file: Path | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; ``faults`` is a spec or a file (docs/standin.md).

    Raises:
        ConfigError: the faults are wrong, the address cannot be bound, or a file cannot be read or written.
    """
    rules = batches or BatchRules()
    behaviour = Behaviour(
        position_bias, noise, latency_ms / 1000, read_faults(faults), rules, prefers=prefers, logprobs=logprobs
    )
    asyncio.run(_serve(Service(behaviour, log_path), host, port, port_file))


async def _serve(service: Service, host: str, port: int, port_file: Path | None) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    listening = await listen(service, host, port)
    try:
        if port_file is not None:
            _write_port(port_file, listening.port)
        print(f"stand-in ready at {listening.base_url}", flush=True)
        await stopped.wait()
    finally:
        await listening.close()


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
        run_server(
            given.host,
            given.port,
            position_bias=given.position_bias,
            noise=given.noise,
            prefers=given.prefers,
            logprobs=given.logprobs,
            latency_ms=given.latency_ms,
            faults=given.faults,
            batches=BatchRules(
                given.batch_seconds,
                given.batch_expire_share,
                given.batch_fail_share,
                given.batch_max_rows,
                given.batch_max_bytes,
            ),
            log_path=given.log,
            port_file=given.port_file,
        )
    except TapirError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Serve the stand-in: a rule-based teacher and judge, no LLM.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one")
    parser.add_argument("--position-bias", type=float, default=0.5, help="points added to the answer shown first")
    parser.add_argument("--noise", type=float, default=0.5, help="standard deviation of the judge's scores, in points")
    parser.add_argument(
        "--prefers", choices=get_args(Preference), default="better", help="which answer wins in benchmarks"
    )
    parser.add_argument(
        "--no-logprobs", dest="logprobs", action="store_false", help="give no log-probabilities to who asks for them"
    )
    parser.add_argument("--latency-ms", type=int, default=0, help="milliseconds before each reply")
    parser.add_argument(
        "--faults", default="", help="what fails on purpose: 429=0.1,hang@10-40, or a TOML or JSON file"
    )
    rules = BatchRules()
    parser.add_argument("--batch-seconds", type=float, default=rules.seconds, help="seconds that a batch takes")
    parser.add_argument("--batch-expire-share", type=float, default=0.0, help="share of batch rows that expire")
    parser.add_argument("--batch-fail-share", type=float, default=0.0, help="share of batch rows that fail with 500")
    parser.add_argument("--batch-max-rows", type=int, default=rules.max_rows, help="most rows of a batch file")
    parser.add_argument("--batch-max-bytes", type=int, default=rules.max_bytes, help="largest batch file")
    parser.add_argument("--log", type=Path, default=None, help="append one JSON line a request to this file")
    parser.add_argument("--port-file", type=Path, default=None, help="write the port here once it listens")
    return parser


if __name__ == "__main__":
    sys.exit(main())
