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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tapir_core.errors import ConfigError, EngineError, MissingPrerequisite
from tapir_core.paths import RESULTS, SERVER_LOG, SERVER_RECORD, log_file, prefect_home
from tapir_core.run_folder import RunRef
from tapir_core.storage import Storage
from tasks.engines.endpoints import keyless_environment
from tasks.engines.supervisor import start_child

__all__ = ["PrefectServer", "connect_prefect", "living_server", "own_settings", "start_server", "stop_server"]

_START_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class PrefectServer:
    """A server that `tapir up` started for a run root."""

    address: str
    pid: int
    process_started: float
    """Tells the process from a later one of the same number."""


@contextmanager
def connect_prefect(ref: RunRef) -> Iterator[str]:
    """Point this process at a Prefect server; one that is started here ends with the block, or with this process.

    Yields:
        The address of the UI.

    Raises:
        MissingPrerequisite: the server that ``PREFECT_API_URL`` names does not answer.
        EngineError: the own server does not start.
    """
    os.environ.update(own_settings(ref.root, results=f"{ref.root}/{ref.name}"))
    api = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if api:
        if not _is_healthy(api):
            raise MissingPrerequisite(
                f"PREFECT_API_URL is {api} and nothing answers there; start that server, or unset the variable and the "
                "run brings its own"
            )
        yield os.environ.get("PREFECT_UI_URL") or api.removesuffix("/api")
        return
    server = living_server(ref.root)
    if server is not None:
        os.environ["PREFECT_API_URL"] = f"{server.address}/api"
        yield server.address
        return
    port = _free_port()
    log = Storage(f"{ref.root}/{ref.name}").local(log_file("prefect-server"))
    address = f"http://127.0.0.1:{port}"
    env = {**keyless_environment(), **_ui_settings(address)}
    child = start_child(_command(port), env=env, log_path=log, name="Prefect server")
    try:
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
        settings["PREFECT_LOCAL_STORAGE_PATH"] = str(Storage(results).local(RESULTS).absolute())
    return settings


def living_server(root: str) -> PrefectServer | None:
    """The server of `tapir up` for this root, if it lives."""
    try:
        server = PrefectServer(**json.loads(Storage(root).read_bytes(SERVER_RECORD)))
    except (FileNotFoundError, ValueError):
        return None
    return server if _is_ours(server) and _is_healthy(f"{server.address}/api") else None


def start_server(root: str, port: int) -> PrefectServer:
    """Start a server for this root that stays when this process ends.

    Raises:
        ConfigError: the port is taken.
        EngineError: it does not start.
    """
    if _is_taken(port):
        raise ConfigError(f"--port {port}: something else listens there; choose another port")
    address, log = f"http://127.0.0.1:{port}", Storage(root).local(SERVER_LOG)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            _command(port),
            env={**keyless_environment(), **own_settings(root), **_ui_settings(address)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = PrefectServer(address, process.pid, psutil.Process(process.pid).create_time())
    try:
        _wait_until_healthy(server.address, log, lambda: process.poll() is None)
    except EngineError:
        process.terminate()
        raise
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


def _ui_settings(address: str) -> dict[str, str]:
    """Where the pages find the API: left alone, they look for it on Prefect's default port."""
    return {"PREFECT_SERVER_UI_API_URL": f"{address}/api"}


def _command(port: int) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_until_healthy(address: str, log: Path, is_alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while not (is_alive() and _is_healthy(f"{address}/api")):
        if not is_alive() or time.monotonic() > deadline:
            raise EngineError(f"the Prefect server did not start at {address}; its log is {log}")
        time.sleep(0.2)


def _is_ours(server: PrefectServer) -> bool:
    """Whether the recorded process still is that server, and no later process with its number."""
    try:
        started: float = psutil.Process(server.pid).create_time()
        return abs(started - server.process_started) < 0.05
    except psutil.NoSuchProcess:
        return False


def _is_healthy(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False
