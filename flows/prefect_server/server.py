"""The Prefect server that a run reports to: the one set in the environment, the one of `tapir up`, or its own.

Here is how each process of Prefect is started: its settings, its command, whether it answers, where its results go.
`tapir up` starts the caretaker of a root, which keeps server and workers. What flow runs and task runs of a root on S3
return is kept below that root. Prefect takes a storage that several machines share by the name of a block on its
server. Ours holds an address and how patient the client is, and no key: keys and endpoint come from the environment of
whoever writes or reads.

Limits: one caretaker a root; it is recorded in the root with its process id and start. Our flows read no result again,
for the manifests say what is done; what waits for a flow run elsewhere reads its result.

Imports no Prefect: the settings must stand in the environment before it is imported.
"""

import base64
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import httpx
import psutil

from tapir_core import errors, paths, processes, proxies, run_folder, storage, text
from tasks.engines import keys, logs, supervisor

TAG = "tapir"
"""Of every deployment, and so of every flow run that the server looks after for us."""

DEPLOYMENTS = (
    "distill/distill",
    "retry-judge/retry-judge",
    "evaluate/evaluate",
    "sweep-backbones/sweep-backbones",
    "compare/compare",
    "fine-tune/fine-tune",
    "serve-student/serve-student",
)
"""Flow and deployment of each entry of `deployments/prefect.yaml`."""

_COUNTED = re.compile(
    r"PREFECT_(_.*|UI_URL|CLIENT_CUSTOM_HEADERS|API_(URL|KEY|AUTH_STRING|SSL_CERT_FILE|TLS_INSECURE_SKIP_VERIFY)"
    r"|SERVER_(ENCRYPTION_KEY|API_(AUTH_STRING|(CSRF|CORS)_\w+)))"
)
"""Settings of Prefect that a user's environment may hold for us; `tapir up` takes those of a database, too."""

DATABASE_VARIABLE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
"""Where a server finds its database; holds a password, so that no argument and no file does."""

CLIENT_RETRIES = 7
"""Of a request that the server does not answer, after 2, 4, 8, … seconds: 4 minutes, less than what counts as dead."""

PASSWORD_VARIABLE = "PREFECT_API_AUTH_STRING"
"""With what a client of Prefect enters a server, USER:PASSWORD."""

_SERVER_PASSWORD = "PREFECT_SERVER_API_AUTH_STRING"

_HEARTBEAT_SECONDS = 30
"""Between two signs of life of a flow run; Prefect takes no less. An automation waits for ten of them."""

HURRY = threading.Event()
"""Set when this process is to end: from then on a server that does not answer is hardly waited for."""

_LOOK_SECONDS = 2.0
_SILENT_SECONDS, _HURRIED_SECONDS = 150.0, 5.0
"""After which an own server that does not answer is ended; the second once this process is to end."""

_START_TIMEOUT_SECONDS = 120.0
_NOT_STARTED = "the Prefect server did not start"
_UNWRITABLE = "readonly database|Read-only|Permission denied|unable to open database"
_MOVE = "move {home} away: the next start makes it anew, and runs lose nothing by it"
_REMEDIES = {
    "Can't locate revision": f"a newer Prefect made the database; {_MOVE}",
    "not a database|malformed": f"the database is damaged; {_MOVE}",
    "disk is full|No space left": "free some space where {home} is",
    _UNWRITABLE: "let this user write to {home}",
}
"""What to do about an error of Prefect's database."""
_MIGRATIONS = "prefect/server/database/_migrations/versions/sqlite"


@dataclass(frozen=True, slots=True)
class PrefectServer:
    """A server that `tapir up` started for a run root."""

    address: str
    pid: int
    """Of its caretaker, with which the server and its workers end."""
    process_started: float
    """Tells the process from a later one of the same number."""
    boot_id: str
    """Of the machine, since which the start counts."""
    gpu_workers: int = 1
    """Workers of the pool `tapir-gpu` that it keeps."""

    @property
    def api(self) -> str:
        """URL of its API."""
        return f"{self.address}/api"


@contextmanager
def connect_prefect(ref: run_folder.RunRef) -> Iterator[str]:
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


def named_server(root: str) -> str | None:
    """The API of the server that should stay, which may be away: that of ``PREFECT_API_URL``, or that of `tapir up`."""
    kept = _kept_server(root)
    return os.environ.get("PREFECT_API_URL", "").rstrip("/") or (kept.api if kept else None)


def find_server(root: str) -> str | None:
    """The API of a server that stays: the one that ``PREFECT_API_URL`` names, or the one of `tapir up`, if one stands.

    Raises:
        MissingPrerequisite: nothing answers at the named one, or it wants a password.
    """
    api = named_server(root)
    if api is not None and is_healthy(api):
        check_entry(api)
        return api
    if api is not None and os.environ.get("PREFECT_API_URL"):
        raise errors.MissingPrerequisite(
            f"PREFECT_API_URL is {api} and nothing answers there{proxies.through(api)}; start that server, or unset "
            "the variable and the run brings its own"
        )
    return None


def standing_server(root: str) -> str:
    """The API of a server that stays.

    Raises:
        MissingPrerequisite: there is none, or it wants a password.
    """
    api = find_server(root)
    if api is None:
        raise errors.MissingPrerequisite(
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
    log = storage.on_this_machine(root).local(paths.CARETAKER_LOG)
    kept = _kept_server(root)
    if kept is not None:
        wait_until_healthy(kept.address, log, lambda: _is_ours(kept))
        return kept
    check_own_password()
    database = {} if postgres is None else {DATABASE_VARIABLE: _asynchronous(postgres)}
    if is_taken(port):
        raise errors.ConfigError(f"--port {port}: something else listens there; choose another port")
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
    holder = processes.Holder.of_process(process.pid)
    server = PrefectServer(f"http://127.0.0.1:{port}", process.pid, holder.process_started, holder.boot_id, gpu_workers)
    storage.on_this_machine(root).write_bytes(paths.SERVER_RECORD, json.dumps(asdict(server)).encode())
    try:
        wait_until_healthy(server.address, log, lambda: process.poll() is None)
    except errors.EngineError:
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
        if psutil.wait_procs([process], timeout=60)[1]:
            process.kill()
    storage.on_this_machine(root).remove(paths.SERVER_RECORD)
    return server


def own_settings(root: str, *, results: str | None = None) -> dict[str, str]:
    """Prefect settings of everything we start: its home below the run root, nothing sent home, a quiet terminal.

    What flow runs and task runs return goes to ``results``, a run's folder, or below a root that is on S3.
    """
    remote = results_setting(root)
    local = None if results is None or remote else str(storage.on_this_machine(results).local(paths.RESULTS).absolute())
    return {
        "PREFECT_HOME": str(storage.on_this_machine(root).local(paths.PREFECT_HOME).absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        # Else each event that a server does not take is a page on the terminal.
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLIENT_MAX_RETRIES": str(CLIENT_RETRIES),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(_HEARTBEAT_SECONDS),
        "DO_NOT_TRACK": "1",
        **({"PREFECT_LOCAL_STORAGE_PATH": local} if local else {}),
        **remote,
    }


def ignore_settings(root: str, say: Callable[[str], object], *, database: bool = False) -> None:
    """Take settings of Prefect that are meant for other servers out of our environment, and say which.

    ``database``: whether those of a server's database count.
    """
    ours, others = own_settings(root), []
    for name, value in sorted(os.environ.items()):
        counts = _COUNTED.fullmatch(name) or (database and name.startswith("PREFECT_SERVER_DATABASE_"))
        # A password that is set and empty shuts everybody out.
        if name.startswith("PREFECT_") and not (counts and value) and os.environ.pop(name) not in ("", ours.get(name)):
            others.append(name)
    if others:
        say(f"ignoring {', '.join(others)}: meant for another Prefect server (docs/operating.md)")


def prepare_prefect(root: str, *, results: str | None = None) -> None:
    """Put `own_settings` into the environment of this process, which has not imported Prefect yet.

    Raises:
        EngineError: Prefect's home cannot be made.
    """
    os.environ.update(own_settings(root, results=results))
    # Prefect makes its home, but not the folders above it.
    home = Path(os.environ["PREFECT_HOME"])
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        remedy = _REMEDIES[_UNWRITABLE].format(home=home)
        raise errors.EngineError(f"{home} cannot be made ({exc.strerror}); {remedy}") from exc


def enter_server(api: str, root: str) -> None:
    """Point this process, which has not imported Prefect yet, at a server that stands.

    Raises:
        MissingPrerequisite: it wants a password, and not the one that we have.
    """
    check_entry(api)
    prepare_prefect(root)
    os.environ["PREFECT_API_URL"] = api


def server_environment(root: str, address: str) -> dict[str, str]:
    """The environment of a server: no key but Prefect's own, and where its pages find the API."""
    return {
        **keys.keyless_environment(),
        **{name: value for name, value in os.environ.items() if name.startswith("PREFECT_")},
        **own_settings(root),
        # By default a restarted server has forgotten who holds its concurrency limits, and they are taken for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_UI_API_URL": f"{address}/api",
    }


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
    return _status(url) == httpx.codes.OK


def check_entry(api: str) -> None:
    """Whether a server that answers lets us in; its page of health is open to everybody.

    Raises:
        MissingPrerequisite: it wants a password, and not the one that we have.
    """
    if _status(f"{api}/admin/version") == httpx.codes.UNAUTHORIZED:
        raise errors.MissingPrerequisite(
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
        raise errors.MissingPrerequisite(
            f"{_SERVER_PASSWORD} gives the Prefect server a password that {PASSWORD_VARIABLE} does not hold, so that "
            "no command and no worker could enter; export both with the same USER:PASSWORD, or neither"
        )


def wait_until_healthy(address: str, log: Path, is_alive: Callable[[], bool]) -> None:
    """Wait for a server that was just started.

    Raises:
        EngineError: its process ended, or two minutes did not do; has its last words and what to do.
    """
    began, deadline = log.stat().st_size if log.exists() else 0, time.monotonic() + _START_TIMEOUT_SECONDS
    while not (is_alive() and is_healthy(f"{address}/api")):
        if not is_alive() or time.monotonic() > deadline:
            said = log.read_bytes()[began:].decode("utf-8", "replace")
            # A caretaker says it of the server that it keeps.
            if told := re.search(rf"{_NOT_STARTED}.*", said, re.DOTALL):
                raise errors.EngineError(told[0].strip())
            words = logs.last_words(said)
            remedy = _remedy(words, os.environ.get("PREFECT_HOME", ""))
            raise errors.EngineError(
                f"{_NOT_STARTED} at {address}:\n{words}\nits log is {log}{remedy and '; '}{remedy}"
            )
        time.sleep(0.2)


def check_database(root: str) -> None:
    """Whether Prefect here can use the database of a root, if there is one; changes nothing.

    Raises:
        EngineError: it is damaged, or a newer Prefect made it.
    """
    file = Path(own_settings(root)["PREFECT_HOME"], "prefect.db")
    if not file.exists():
        return
    said = ""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            (version,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        # Those of the Prefect that is installed here, without importing it.
        migrations = Path(str(metadata.distribution("prefect").locate_file(_MIGRATIONS)))
        if not any(version in each.read_text() for each in migrations.glob("*.py")):
            said = f"Can't locate revision identified by {version!r}"
    except sqlite3.Error as error:
        said = str(error)
    if remedy := _remedy(said, file.parent):
        raise errors.EngineError(f"the Prefect server cannot use {file} ({said}); {remedy}")


def _remedy(words: str, home: str | Path) -> str:
    """What to do about an error of the database in Prefect's home; nothing where it is about something else."""
    return next((remedy for pattern, remedy in _REMEDIES.items() if re.search(pattern, words)), "").format(home=home)


def results_setting(root: str) -> dict[str, str]:
    """Prefect's setting that names the storage; none for a root on this machine."""
    return {"PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": f"remote-file-system/{_name(root)}"} if "://" in root else {}


def worker_command(root: str) -> str:
    """The command that starts a worker for a root, but for its pool."""
    settings = {paths.ROOT_VARIABLE: root, **results_setting(root), "PREFECT_CLIENT_MAX_RETRIES": str(CLIENT_RETRIES)}
    return f"{' '.join(f'{name}={value}' for name, value in settings.items())} python -m flows.server_away worker start"


def save_results_storage(root: str) -> None:
    """Make the block, on the server that Prefect's settings name; nothing happens for a root on this machine."""
    if "://" not in root:
        return
    # Not before: Prefect reads its settings when it is imported.
    from prefect.filesystems import RemoteFileSystem

    basepath = f"{root.rstrip('/')}/{paths.PREFECT_RESULTS}"
    RemoteFileSystem(basepath=basepath, settings=storage.client_settings(storage.Timeouts())).save(
        _name(root), overwrite=True
    )


@contextmanager
def _own_server(ref: run_folder.RunRef) -> Iterator[str]:
    """The API of a server that stands as long as the block lasts; when it dies, so does the block.

    The one that Prefect's own client starts where no address is set does not do: it has no pages, is given every key
    that we have, and outlives a process that is killed.
    """
    check_own_password()
    log = storage.on_this_machine(f"{ref.root}/{ref.name}").local(paths.log_file("prefect-server"))
    with supervisor.reserved_port("127.0.0.1") as port:
        address, command = f"http://127.0.0.1:{port}", server_command(port)
    environment = server_environment(ref.root, address)
    # Said outright: a `.env` or `prefect.toml` of the working folder may name another one.
    database = {DATABASE_VARIABLE: f"sqlite+aiosqlite:///{environment['PREFECT_HOME']}/prefect.db"}
    child = supervisor.start_child(command, env=environment | database, log_path=log, name="Prefect server")
    try:
        wait_until_healthy(address, log, lambda: child.poll() is None)
        with ends_with(child, f"{address}/api"):
            yield f"{address}/api"
    finally:
        if child.poll() is None and "prefect" in sys.modules:
            from prefect.logging.handlers import APILogHandler

            # It sends logs in batches from a thread; what is left must go before its server does.
            APILogHandler().flush()
        child.terminate(grace_seconds=5)
        os.environ.pop("PREFECT_API_URL", None)


@contextmanager
def ends_with(server: supervisor.Child, api: str, *, silent_seconds: float = _SILENT_SECONDS) -> Iterator[None]:
    """A block that is interrupted, in the main thread, when its server dies: it would repeat every request for minutes.

    A server that lives and gives no answer for ``silent_seconds`` is ended.

    Raises:
        EngineError: the server ended, or had to be ended because it did not answer.
    """
    HURRY.clear()
    try:
        with processes.beside("tapir-prefect-server", partial(_watch, server, api, silent_seconds)):
            yield
    except BaseException as error:
        if server.poll() is None:
            raise
        last = next((line for line in reversed(server.output().splitlines()) if line.strip()), "it is empty")
        raise errors.EngineError(
            "the Prefect server of this run died or stopped answering, and the run ended with it; the end of its log "
            f"{server.log_path}: {last}. What was received is stored: the same command starts a new server and goes on"
        ) from error


def _watch(server: supervisor.Child, api: str, silent_seconds: float, over: threading.Event) -> None:
    """End the block of `ends_with` when its server is dead, or as good as that."""
    answered = time.monotonic()
    while not over.wait(_LOOK_SECONDS):
        if server.poll() is None:
            answered = time.monotonic() if is_healthy(api) else answered
            if time.monotonic() - answered < (_HURRIED_SECONDS if HURRY.is_set() else silent_seconds):
                continue
            server.terminate(0)
        if not HURRY.is_set():
            HURRY.set()
            os.kill(os.getpid(), signal.SIGINT)
        return


def _kept_server(root: str) -> PrefectServer | None:
    try:
        server = PrefectServer(**json.loads(storage.on_this_machine(root).read_bytes(paths.SERVER_RECORD)))
    except (FileNotFoundError, ValueError):
        return None
    except TypeError as error:
        raise errors.EngineError(
            f"{paths.SERVER_RECORD} below {root} is of a development version: end the process whose `pid` it has, and "
            "remove it"
        ) from error
    return server if _is_ours(server) else None


def _is_ours(server: PrefectServer) -> bool:
    """Whether the recorded process still is that caretaker, and no later process with its number."""
    host = processes.Holder.this_process().host
    return bool(processes.Holder(host, server.boot_id, server.pid, server.process_started).lives())


def _asynchronous(url: str) -> str:
    """The URL with the driver that Prefect's server takes."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise errors.ConfigError("--postgres: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    return f"postgresql+asyncpg://{rest}"


def _status(url: str) -> int:
    """The HTTP status of a page; 0 where nothing answers."""
    password = os.environ.get(PASSWORD_VARIABLE, "")
    entry = {"Authorization": f"Basic {base64.b64encode(password.encode()).decode()}"} if password else {}
    try:
        return httpx.get(url, headers=entry, timeout=2, follow_redirects=True).status_code
    except (httpx.HTTPError, httpx.InvalidURL):
        return 0


def _name(root: str) -> str:
    return f"tapir-{text.digest(root.rstrip('/'))[:12]}"
