"""How a Prefect process of ours is started: its settings, its command, whether it answers.

Imports no Prefect: the settings must stand in the environment before it is imported.
"""

import base64
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tapir_core.errors import EngineError
from tapir_core.paths import RESULTS, prefect_home
from tapir_core.storage import on_this_machine
from tasks.engines.endpoints import keyless_environment

__all__ = [
    "DATABASE_VARIABLE",
    "HEARTBEAT_SECONDS",
    "TAG",
    "answers",
    "is_healthy",
    "is_taken",
    "own_settings",
    "server_command",
    "server_environment",
    "wait_until_healthy",
]

DATABASE_VARIABLE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
"""Where a server finds its database; holds a password, so that no argument and no file does."""

HEARTBEAT_SECONDS = 30
"""Between two signs of life of a flow run; Prefect takes no less."""

TAG = "tapir"
"""Of every deployment, and so of every flow run that the server looks after for us (automations.py)."""

_START_TIMEOUT_SECONDS = 120.0


def own_settings(root: str, *, results: str | None = None) -> dict[str, str]:
    """Prefect settings of everything we start: its home below the run root, nothing sent home, a quiet terminal."""
    settings = {
        "PREFECT_HOME": str(on_this_machine(root).local(prefect_home()).absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "DO_NOT_TRACK": "1",
    }
    if results is not None:
        settings["PREFECT_LOCAL_STORAGE_PATH"] = str(on_this_machine(results).local(RESULTS).absolute())
    return settings


def server_environment(root: str, address: str) -> dict[str, str]:
    """The environment of a server: no key, and where its pages find the API, which they take for Prefect's own port."""
    settings = own_settings(root)
    # Prefect makes its home, but not the folders above it.
    Path(settings["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    return {**keyless_environment(), **settings, "PREFECT_SERVER_UI_API_URL": f"{address}/api"}


def server_command(port: int) -> list[str]:
    """Starts a server that nobody beyond this machine reaches."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]


def is_taken(port: int) -> bool:
    """Whether something listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_healthy(api: str) -> bool:
    """Whether a Prefect API answers at this URL."""
    return answers(f"{api}/health")


def answers(url: str) -> bool:
    """Whether a page of a Prefect server is there, for who gives the password of ``PREFECT_API_AUTH_STRING``."""
    try:
        request = urllib.request.Request(url)
        if password := os.environ.get("PREFECT_API_AUTH_STRING"):
            request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def wait_until_healthy(address: str, log: Path, is_alive: Callable[[], bool]) -> None:
    """Wait for a server that was started.

    Raises:
        EngineError: its process ended, or two minutes did not do.
    """
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while not (is_alive() and is_healthy(f"{address}/api")):
        if not is_alive() or time.monotonic() > deadline:
            raise EngineError(f"the Prefect server did not start at {address}; its log is {log}")
        time.sleep(0.2)
