"""`tapir up` and `tapir down`: the caretaker of a root, and the server that it keeps.

Imports no Prefect. Limits: one caretaker a root; it is recorded in the root with its process id and start.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass

import psutil

from flows.commands.prefect_process import (
    DATABASE_VARIABLE,
    check_own_password,
    is_healthy,
    is_taken,
    own_settings,
    wait_until_healthy,
)
from tapir_core.errors import ConfigError, EngineError
from tapir_core.paths import CARETAKER_LOG, SERVER_RECORD
from tapir_core.storage import on_this_machine

__all__ = ["PrefectServer", "living_server", "start_server", "stop_server"]

_END_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PrefectServer:
    """A server that `tapir up` started for a run root."""

    address: str
    pid: int
    """Of its caretaker, with which the server and its workers end."""
    process_started: float
    """Tells the process from a later one of the same number."""
    gpu_workers: int = 1
    """Workers of the pool `tapir-gpu` that it keeps."""

    @property
    def api(self) -> str:
        """URL of its API."""
        return f"{self.address}/api"


def living_server(root: str) -> PrefectServer | None:
    """The server of `tapir up` for this root, if it answers."""
    server = _kept_server(root)
    return server if server is not None and is_healthy(server.api) else None


def start_server(root: str, port: int, *, postgres: str | None = None, gpu_workers: int = 1) -> PrefectServer:
    """Start the caretaker of this root, which stays when this process ends, and wait for its server.

    A caretaker that lives is waited for. Without ``postgres``, a URL, the server's database is a file of the root.
    ``gpu_workers`` is how many workers of the pool `tapir-gpu` it keeps.

    Raises:
        ConfigError: the port is taken, or the URL is none of PostgreSQL.
        MissingPrerequisite: the server is given a password, and its clients are not.
        EngineError: it does not start.
    """
    log = on_this_machine(root).local(CARETAKER_LOG)
    kept = _kept_server(root)
    if kept is not None:
        wait_until_healthy(kept.address, log, lambda: _is_ours(kept))
        return kept
    check_own_password()
    database = {} if postgres is None else {DATABASE_VARIABLE: _asynchronous(postgres)}
    if is_taken(port):
        raise ConfigError(f"--port {port}: something else listens there; choose another port")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.commands.caretaker", root, str(port), str(gpu_workers)],
            env={**os.environ, **own_settings(root), **database},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    started: float = psutil.Process(process.pid).create_time()
    server = PrefectServer(f"http://127.0.0.1:{port}", process.pid, started, gpu_workers)
    on_this_machine(root).write_bytes(SERVER_RECORD, json.dumps(asdict(server)).encode())
    try:
        wait_until_healthy(server.address, log, lambda: process.poll() is None)
    except EngineError:
        stop_server(root)
        raise
    return server


def stop_server(root: str) -> PrefectServer | None:
    """End the caretaker with all that it keeps; flow runs at work stop first and can go on. Nothing when none lives."""
    server = _kept_server(root)
    if server is not None:
        process = psutil.Process(server.pid)
        process.terminate()
        # What it started ends with it, whatever ends it.
        if psutil.wait_procs([process], timeout=_END_SECONDS)[1]:
            process.kill()
    on_this_machine(root).remove(SERVER_RECORD)
    return server


def _kept_server(root: str) -> PrefectServer | None:
    try:
        server = PrefectServer(**json.loads(on_this_machine(root).read_bytes(SERVER_RECORD)))
    except (FileNotFoundError, ValueError):
        return None
    return server if _is_ours(server) else None


def _is_ours(server: PrefectServer) -> bool:
    """Whether the recorded process still is that caretaker, and no later process with its number."""
    try:
        process = psutil.Process(server.pid)
        started: float = process.create_time()
        return abs(started - server.process_started) < 0.05 and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _asynchronous(url: str) -> str:
    """The URL with the driver that Prefect's server takes."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise ConfigError("--postgres: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    return f"postgresql+asyncpg://{rest}"
