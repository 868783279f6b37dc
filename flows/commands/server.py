"""The Prefect server that a run reports to: the one set in the environment, the one of `tapir up`, or its own.

Imports no Prefect: the settings must stand in the environment before it is imported.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flows.commands.prefect_process import (
    check_entry,
    check_own_password,
    is_healthy,
    prepare_prefect,
    server_command,
    server_environment,
    wait_until_healthy,
)
from flows.commands.results import save_results_storage
from flows.commands.up import living_server
from tapir_core.errors import MissingPrerequisite
from tapir_core.paths import log_file
from tapir_core.run_folder import RunRef
from tapir_core.storage import on_this_machine
from tasks.engines.supervisor import start_child

__all__ = ["connect_prefect", "server_stands", "standing_server"]


@contextmanager
def connect_prefect(ref: RunRef) -> Iterator[str]:
    """Point this process at a Prefect server; one that is started here ends with the block, or with this process.

    Yields:
        The address of the UI.

    Raises:
        MissingPrerequisite: the server that ``PREFECT_API_URL`` names does not answer, or wants a password.
        EngineError: the own server does not start.
    """
    prepare_prefect(ref.root, results=f"{ref.root}/{ref.name}")
    with _some_server(ref) as address:
        save_results_storage(ref.root)
        yield address


@contextmanager
def _some_server(ref: RunRef) -> Iterator[str]:
    api = _named_server()
    if api is not None:
        yield os.environ.get("PREFECT_UI_URL") or api.removesuffix("/api")
        return
    server = living_server(ref.root)
    if server is not None:
        check_entry(server.api)
        os.environ["PREFECT_API_URL"] = server.api
        yield server.address
        return
    check_own_password()
    port = _free_port()
    log = on_this_machine(f"{ref.root}/{ref.name}").local(log_file("prefect-server"))
    address = f"http://127.0.0.1:{port}"
    env = server_environment(ref.root, address)
    child = start_child(server_command(port), env=env, log_path=log, name="Prefect server")
    try:
        wait_until_healthy(address, log, lambda: child.poll() is None)
        os.environ["PREFECT_API_URL"] = f"{address}/api"
        yield address
    finally:
        _send_last_logs()
        child.terminate(grace_seconds=5)
        os.environ.pop("PREFECT_API_URL", None)


def server_stands(root: str) -> bool:
    """Whether there is a server that stays: the named one, or the one of `tapir up`.

    Raises:
        MissingPrerequisite: nothing answers at the named one, or it wants a password.
    """
    return _named_server() is not None or living_server(root) is not None


def standing_server(root: str) -> str:
    """The API of a server that stays: the named one, or the one of `tapir up`.

    Raises:
        MissingPrerequisite: there is none, or it wants a password.
    """
    api = _named_server()
    if api is not None:
        return api
    server = living_server(root)
    if server is None:
        raise MissingPrerequisite(
            f"PREFECT_API_URL is not set and no server of {root!r} runs; set it, or start one with `tapir up`"
        )
    check_entry(server.api)
    return server.api


def _named_server() -> str | None:
    """The API that ``PREFECT_API_URL`` names, if it names one.

    Raises:
        MissingPrerequisite: nothing answers there, or it wants a password.
    """
    api = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if api and not is_healthy(api):
        raise MissingPrerequisite(
            f"PREFECT_API_URL is {api} and nothing answers there; start that server, or unset the variable and the "
            "run brings its own"
        )
    if api:
        check_entry(api)
    return api or None


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
