"""How a Prefect process of ours is started: its settings, its command, whether it answers, where its results go.

What flow runs and task runs of a root on S3 return is kept below that root. Prefect takes a storage that several
machines share by the name of a block on its server. Ours holds an address and how patient the client is, and no key:
keys and endpoint come from the environment of whoever writes or reads. Limits: our flows read no result again, for the
manifests say what is done; what waits for a flow run elsewhere reads its result.

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
from http import HTTPStatus
from pathlib import Path

from tapir_core.errors import EngineError, MissingPrerequisite
from tapir_core.paths import RESULTS, ROOT_VARIABLE, prefect_home, prefect_results
from tapir_core.storage import Patience, client_settings, on_this_machine
from tapir_core.text import digest
from tasks.engines.keys import keyless_environment

__all__ = [
    "DATABASE_VARIABLE",
    "HEARTBEAT_SECONDS",
    "PASSWORD_VARIABLE",
    "answers",
    "check_entry",
    "check_own_password",
    "is_healthy",
    "is_taken",
    "own_settings",
    "prepare_prefect",
    "results_setting",
    "save_results_storage",
    "server_command",
    "server_environment",
    "wait_until_healthy",
    "worker_settings",
]

DATABASE_VARIABLE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
"""Where a server finds its database; holds a password, so that no argument and no file does."""

CLIENT_RETRIES = 7
"""Of a request that the server does not answer, after 2, 4, 8, … seconds: 4 minutes, less than what counts as dead."""

PASSWORD_VARIABLE = "PREFECT_API_AUTH_STRING"
"""With what a client of Prefect enters a server, USER:PASSWORD."""

_SERVER_PASSWORD = "PREFECT_SERVER_API_AUTH_STRING"

HEARTBEAT_SECONDS = 30
"""Between two signs of life of a flow run; Prefect takes no less."""

_START_TIMEOUT_SECONDS = 120.0


def own_settings(root: str, *, results: str | None = None) -> dict[str, str]:
    """Prefect settings of everything we start: its home below the run root, nothing sent home, a quiet terminal.

    What flow runs and task runs return goes to ``results``, a run's folder, or below a root that is on S3.
    """
    settings = {
        "PREFECT_HOME": str(on_this_machine(root).local(prefect_home()).absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLIENT_MAX_RETRIES": str(CLIENT_RETRIES),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "DO_NOT_TRACK": "1",
    }
    remote = results_setting(root)
    if results is not None and not remote:
        settings["PREFECT_LOCAL_STORAGE_PATH"] = str(on_this_machine(results).local(RESULTS).absolute())
    return settings | remote


def prepare_prefect(root: str, *, results: str | None = None) -> None:
    """Put `own_settings` into the environment of this process, which has not imported Prefect yet."""
    os.environ.update(_with_home(own_settings(root, results=results)))


def server_environment(root: str, address: str) -> dict[str, str]:
    """The environment of a server: no key but Prefect's own, and where its pages find the API."""
    settings = _with_home(own_settings(root))
    # By default a restarted server has forgotten who holds its concurrency limits, and they are taken for ever.
    settings["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] = "prefect.server.concurrency.lease_storage.filesystem"
    given = {name: value for name, value in os.environ.items() if name.startswith("PREFECT_")}
    return {**keyless_environment(), **given, **settings, "PREFECT_SERVER_UI_API_URL": f"{address}/api"}


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
    """Whether a page of a Prefect server is there, for who gives the password of `PASSWORD_VARIABLE`."""
    return _status(url) == HTTPStatus.OK


def check_entry(api: str) -> None:
    """Whether a server that answers lets us in; its page of health is open to everybody.

    Raises:
        MissingPrerequisite: it wants a password, and not the one that we have.
    """
    if _status(f"{api}/admin/version") == HTTPStatus.UNAUTHORIZED:
        raise MissingPrerequisite(
            f"the Prefect server at {api} wants another password than {PASSWORD_VARIABLE} holds; export it as "
            "USER:PASSWORD, as the server has it"
        )


def check_own_password() -> None:
    """Whether a server that we start will let us in.

    Raises:
        MissingPrerequisite: it is given a password, and we are not.
    """
    password = os.environ.get(_SERVER_PASSWORD)
    if password and password != os.environ.get(PASSWORD_VARIABLE):
        raise MissingPrerequisite(
            f"{_SERVER_PASSWORD} gives the Prefect server a password that {PASSWORD_VARIABLE} does not hold, so that "
            "no command and no worker could enter; export both with the same USER:PASSWORD, or neither"
        )


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


def results_setting(root: str) -> dict[str, str]:
    """Prefect's setting that names the storage; none for a root on this machine."""
    return {"PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": f"remote-file-system/{_name(root)}"} if _is_elsewhere(root) else {}


def worker_settings(root: str) -> str:
    """What stands before the command of a worker that a user starts for a root."""
    return " ".join(f"{name}={value}" for name, value in {ROOT_VARIABLE: root, **results_setting(root)}.items())


def save_results_storage(root: str) -> None:
    """Make the block, on the server that Prefect's settings name; nothing happens for a root on this machine."""
    if not _is_elsewhere(root):
        return
    # Not before: Prefect reads its settings when it is imported.
    from prefect.filesystems import RemoteFileSystem

    place = RemoteFileSystem(basepath=f"{root.rstrip('/')}/{prefect_results()}", settings=client_settings(Patience()))
    place.save(_name(root), overwrite=True)


def _with_home(settings: dict[str, str]) -> dict[str, str]:
    """The settings, with the folder that they name: Prefect makes its home, but not the folders above it."""
    Path(settings["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    return settings


def _status(url: str) -> int:
    """The HTTP status of a page; 0 where nothing answers."""
    try:
        request = urllib.request.Request(url)
        if password := os.environ.get(PASSWORD_VARIABLE):
            request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=2) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return 0


def _name(root: str) -> str:
    return f"tapir-{digest(root.rstrip('/'))[:12]}"


def _is_elsewhere(root: str) -> bool:
    return "://" in root
