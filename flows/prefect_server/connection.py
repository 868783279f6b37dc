"""The Prefect server that a run reports to: the one set in the environment, the one of `tapir up`, or its own.

`tapir up` starts the caretaker of a root, which keeps server and workers. Imports no Prefect: the settings must stand
in the environment before it is imported. Limits: one caretaker a root; it is recorded in the root with its process id
and start.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import psutil

from flows.prefect_server import (
    DATABASE_VARIABLE,
    check_entry,
    check_own_password,
    is_healthy,
    is_taken,
    own_settings,
    prepare_prefect,
    save_results_storage,
    server_command,
    server_environment,
    wait_until_healthy,
)
from tapir_core.errors import ConfigError, EngineError, MissingPrerequisite
from tapir_core.paths import CARETAKER_LOG, SERVER_RECORD, log_file
from tapir_core.storage import on_this_machine
from tasks.engines.supervisor import start_child

if TYPE_CHECKING:
    from tapir_core.run_folder import RunRef

__all__ = [
    "PrefectServer",
    "connect_prefect",
    "find_server",
    "living_server",
    "standing_server",
    "start_server",
    "stop_server",
]

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


@contextmanager
def connect_prefect(ref: "RunRef") -> Iterator[str]:
    """Point this process at a Prefect server; one that is started here ends with the block, or with this process.

    Yields:
        The address of the UI.

    Raises:
        MissingPrerequisite: the server that ``PREFECT_API_URL`` names does not answer, or wants a password.
        EngineError: the own server does not start.
    """
    prepare_prefect(ref.root, results=f"{ref.root}/{ref.name}")
    shown_at = os.environ.get("PREFECT_UI_URL") if os.environ.get("PREFECT_API_URL") else None
    standing = find_server(ref.root)
    with nullcontext(standing) if standing else _own_server(ref) as api:
        os.environ["PREFECT_API_URL"] = api
        save_results_storage(ref.root)
        yield shown_at or api.removesuffix("/api")


def find_server(root: str) -> str | None:
    """The API of a server that stays: the one that ``PREFECT_API_URL`` names, or the one of `tapir up`, if one stands.

    Raises:
        MissingPrerequisite: nothing answers at the named one, or it wants a password.
    """
    api = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if api and not is_healthy(api):
        raise MissingPrerequisite(
            f"PREFECT_API_URL is {api} and nothing answers there; start that server, or unset the variable and the "
            "run brings its own"
        )
    if not api and (server := living_server(root)) is not None:
        api = server.api
    if api:
        check_entry(api)
    return api or None


def standing_server(root: str) -> str:
    """The API of a server that stays.

    Raises:
        MissingPrerequisite: there is none, or it wants a password.
    """
    api = find_server(root)
    if api is None:
        raise MissingPrerequisite(
            f"PREFECT_API_URL is not set and no server of {root!r} runs; set it, or start one with `tapir up`"
        )
    return api


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
            [sys.executable, "-m", "flows.prefect_server.caretaker", root, str(port), str(gpu_workers)],
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


@contextmanager
def _own_server(ref: "RunRef") -> Iterator[str]:
    """The API of a server that stands as long as the block lasts."""
    check_own_password()
    log = on_this_machine(f"{ref.root}/{ref.name}").local(log_file("prefect-server"))
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    env = server_environment(ref.root, address)
    child = start_child(server_command(port), env=env, log_path=log, name="Prefect server")
    try:
        wait_until_healthy(address, log, lambda: child.poll() is None)
        yield f"{address}/api"
    finally:
        _send_last_logs()
        child.terminate(grace_seconds=5)
        os.environ.pop("PREFECT_API_URL", None)


def _send_last_logs() -> None:
    """Prefect sends logs in batches from a thread; what is left must go before its server does."""
    if "prefect" in sys.modules:
        from prefect.logging.handlers import APILogHandler

        APILogHandler().flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
