"""What the whole suite shares: Hypothesis without time limits or files of its own, and what starts Prefect."""

import os

# A process of several inherits one from its parent's readline, and rich would keep to it.
os.environ.pop("COLUMNS", None)

import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import settings
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.asyncutils import run_coro_as_sync
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from flows.prefect_server.server import server_command, wait_until_healthy
from tapir_core.paths import PREFECT_HOME
from tasks.engines.supervisor import start_child
from tests.harness.forked import Forked
from tests.harness.processes import free_port
from tests.harness.standing_root import StandingRoot

if TYPE_CHECKING:
    from tests.s3_server import S3Server

# What tests write need not outlast a power cut: a killed process, which some are about, has written what it wrote.
os.fsync = lambda _: None

# The same examples every time.
settings.register_profile("project", deadline=None, derandomize=True, database=None)
settings.load_profile("project")


SHARES_A_RUN = "tests/end_to_end/"
TAKES_LONG = (SHARES_A_RUN, "tests/tasks/engines/training/test_trainer.py")
"""Begins first, so that at the end no process works alone for minutes."""


class ByFile(LoadScopeScheduling):
    """What of the suite one process runs when several share it: a file, or a folder that shares a finished run."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return SHARES_A_RUN if file.startswith(SHARES_A_RUN) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """Called where `make test` runs the suite in two processes."""
    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows with a failed test what the processes of its standing roots have written."""
    report = yield
    if report.when == "call" and report.failed:
        for name, value in item.funcargs.items():
            if isinstance(value, StandingRoot):
                report.sections.append((f"logs of {name}", value.said()))
    return report


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """Children without the price of their imports, for what needs a process of its own."""
    with Forked() as forked:
        yield forked


@pytest.fixture(scope="session")
def s3_process() -> Iterator["S3Server"]:
    """One S3 server for all tests."""
    # Takes half a second, which most tests need not spend.
    from tests.s3_server import S3Server

    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_process: "S3Server", monkeypatch: pytest.MonkeyPatch) -> Iterator["S3Server"]:
    """An S3 server with the empty bucket `runs`, which the environment names."""
    from s3fs import S3FileSystem

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_process.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-seen")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3_process.empty()
    yield s3_process
    # A client keeps the credentials that it began with.
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def lay_prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Lays a Prefect database without rows below a run root; making one is most of the first start of a server."""
    made = tmp_path_factory.mktemp("prefect-home")
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    subprocess.run(command, env=_prefect_environment(made), check=True, capture_output=True)

    def lay(root: Path) -> None:
        home = root / PREFECT_HOME
        home.mkdir(parents=True)
        shutil.copy(made / "prefect.db", home)

    return lay


class StandingServer(NamedTuple):
    """A Prefect server that outlasts a command."""

    api: str
    """For ``PREFECT_API_URL``."""
    root: Path
    """Holds all that it writes."""


@pytest.fixture(scope="session")
def standing_prefect(
    tmp_path_factory: pytest.TempPathFactory, lay_prefect_database: Callable[[Path], None]
) -> Iterator[StandingServer]:
    """A Prefect server for commands whose test is not about the one that they would start."""
    root = tmp_path_factory.mktemp("standing-prefect")
    lay_prefect_database(root)
    port = free_port()
    address, log = f"http://127.0.0.1:{port}", root / "server.log"
    environment = {**_prefect_environment(root / PREFECT_HOME), "PREFECT_UI_API_URL": f"{address}/api"}
    with start_child(server_command(port), env=environment, log_path=log, name="Prefect server") as server:
        wait_until_healthy(address, log, lambda: server.poll() is None)
        yield StandingServer(f"{address}/api", root)


@pytest.fixture(scope="module")
def prefect_server(standing_prefect: StandingServer) -> Iterator[None]:
    """Lets the flows of the test process run on the standing server.

    For a module only: until its client's threads have sent all they have, one of them draws from the global random
    numbers that Hypothesis wants for itself.
    """
    with temporary_settings({PREFECT_API_URL: standing_prefect.api}):
        yield
        run_coro_as_sync(_drain_client())


async def _drain_client() -> None:
    for sent in (APILogWorker.instance().drain(), EventsWorker.drain_all()):
        if inspect.isawaitable(sent):
            await sent


def _prefect_environment(home: Path) -> dict[str, str]:
    """Prefect as it comes, but loud and with its files in ``home``."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    settings = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    return {**others, **settings, "PREFECT_LOGGING_LEVEL": "DEBUG"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs flows on a Prefect server counts as slow; what takes long begins first."""
    for item in items:
        if "standing_prefect" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: not item.nodeid.startswith(TAKES_LONG))
