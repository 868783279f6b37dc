"""The Prefect server that a run reports to: the one set in the environment, the one of `tapir up`, or its own.

Imports no Prefect: the settings must stand in the environment before it is imported. Limits: one local server; work
pools, deployments and workers are not started here.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tapir_core.errors import EngineError, MissingPrerequisite
from tapir_core.paths import SERVER_RECORD, log_file, prefect_home
from tapir_core.run_folder import RunRef
from tapir_core.storage import Storage
from tasks.engines.supervisor import start_child

__all__ = ["PrefectServer", "connect_prefect", "living_server", "own_settings", "start_server", "stop_server"]

_START_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class PrefectServer:
    """A server that `tapir up` started for a run root."""

    address: str
    pid: int


@contextmanager
def connect_prefect(run: RunRef) -> Iterator[str]:
    """Point this process at a Prefect server; one that is started here ends with the block, or with this process.

    Yields:
        The address of the UI.

    Raises:
        MissingPrerequisite: the server that ``PREFECT_API_URL`` names does not answer.
        EngineError: the own server does not start.
    """
    os.environ.update(own_settings(run.root, results=f"{run.root}/{run.name}"))
    address = os.environ.get("PREFECT_API_URL", "").removesuffix("/api")
    if address:
        if not _is_healthy(address):
            raise MissingPrerequisite(
                f"PREFECT_API_URL is {address}/api and nothing answers there; start that server, or unset the variable "
                "and the run brings its own"
            )
        yield address
        return
    server = living_server(run.root)
    if server is not None:
        os.environ["PREFECT_API_URL"] = f"{server.address}/api"
        yield server.address
        return
    port = _free_port()
    log = Storage(f"{run.root}/{run.name}").local(log_file("prefect-server"))
    child = start_child(_command(port), env=dict(os.environ), log_path=log, name="Prefect server")
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_healthy(address, log, lambda: child.poll() is None)
        os.environ["PREFECT_API_URL"] = f"{address}/api"
        yield address
    finally:
        _send_last_logs()
        child.terminate(grace_seconds=5)
        os.environ.pop("PREFECT_API_URL", None)


def own_settings(root: str, *, results: str | None = None) -> dict[str, str]:
    """Prefect settings of everything we start: its home below the run root, nothing sent home, a quiet terminal."""
    settings = {
        "PREFECT_HOME": str(Storage(root).local(prefect_home()).absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
    }
    if results is not None:
        settings["PREFECT_LOCAL_STORAGE_PATH"] = str(Storage(results).local(".results").absolute())
    return settings


def living_server(root: str) -> PrefectServer | None:
    """The server of `tapir up` for this root, if it lives."""
    try:
        server = PrefectServer(**json.loads(Storage(root).read_bytes(SERVER_RECORD)))
    except (FileNotFoundError, ValueError):
        return None
    return server if _is_healthy(server.address) else None


def start_server(root: str, port: int) -> PrefectServer:
    """Start a server for this root that stays when this process ends.

    Raises:
        EngineError: it does not start.
    """
    log = Storage(root).local(f".tapir/{log_file('prefect-server')}")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            _command(port),
            env={**os.environ, **own_settings(root)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = PrefectServer(f"http://127.0.0.1:{port}", process.pid)
    _wait_until_healthy(server.address, log, lambda: process.poll() is None)
    Storage(root).write_bytes(SERVER_RECORD, json.dumps(asdict(server)).encode())
    return server


def stop_server(root: str) -> PrefectServer | None:
    """End the server of `tapir up`; nothing when none lives."""
    server = living_server(root)
    if server is not None:
        process = psutil.Process(server.pid)
        family = [process, *process.children(recursive=True)]
        for each in family:
            each.terminate()
        for each in psutil.wait_procs(family, timeout=10)[1]:
            each.kill()
    Storage(root).remove(SERVER_RECORD)
    return server


def _send_last_logs() -> None:
    """Prefect sends logs in batches from a thread; what is left must go before its server does."""
    if "prefect" in sys.modules:
        from prefect.logging.handlers import APILogHandler

        APILogHandler().flush()


def _command(port: int) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_healthy(address: str, log: Path, is_alive: object) -> None:
    assert callable(is_alive)
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while not _is_healthy(address):
        if not is_alive() or time.monotonic() > deadline:
            raise EngineError(f"the Prefect server did not start at {address}; its log is {log}")
        time.sleep(0.2)


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/api/health", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False
