"""One replica as a worker serves it; a small server stands in for vLLM."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tapir_core.calls import run_key, store_url
from tapir_core.errors import ConfigError, EngineError, TapirError
from tapir_core.leases import ReplicaRegistry, RunLease
from tapir_core.paths import BACKBONE, SCRATCH_VARIABLE, log_file
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.stages import StageAt
from tasks.engines.keys import replica_key
from tasks.engines.machine import HOST_VARIABLE
from tasks.runtime import close_all, current
from tasks.serving import ASKED_NOW, serve_replica
from tests import waiting
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.s3_server import S3Server
from tests.students import make_checkpoint
from tests.tasks.engines.test_student_server import fake_python, processes_below

wait_until = partial(waiting.wait_until, seconds=30, every=0.01)

ROOT = Path(__file__).parents[2]

NO_HELDOUT = {"pool": {"type": "standin", "rows": 60}, "heldout": None}

SERVE = """
import sys
from tapir_core.run_folder import RunFolder, RunRef
from tasks.serving import serve_replica

serve_replica(RunFolder(RunRef(sys.argv[1], "example")), -1, sys.argv[2], say=print)
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    engine = {"type": "replicas", "python": fake_python(tmp_path), "concurrency": 7}
    backbone = make_checkpoint(tmp_path / "backbone")
    student = {"backbone": str(backbone), "engine": engine}
    yield open_run(make_config(tmp_path / "runs", student=student), {})
    close_all()
    assert [pid for pid in processes_below(os.getpid()) if b"--served-model-name" in command_line(pid)] == []


@pytest.fixture
def registry(run: RunFolder) -> Iterator[ReplicaRegistry]:
    registry = ReplicaRegistry(store_url(run.config), run_key(run.config))
    yield registry
    registry.close()


@pytest.fixture
def driver(run: RunFolder) -> Iterator[RunLease]:
    with RunLease(store_url(run.config), run_key(run.config)) as lease:
        yield lease


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return b""


def identity(run: RunFolder) -> str:
    return current(run).student_at(BACKBONE).identity


class Serving:
    """`serve_replica` in a thread, with what it gives or raises."""

    def __init__(self, run: RunFolder, number: int = BACKBONE, replica: str = "") -> None:
        self.outcome: str | Exception = ""
        self._thread = threading.Thread(target=self._serve, args=(run, number, replica))
        self._thread.start()

    def end(self) -> str | Exception:
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()
        return self.outcome

    def _serve(self, run: RunFolder, number: int, replica: str) -> None:
        try:
            self.outcome = serve_replica(run, number, replica, say=lambda _line: None, look_seconds=0.02)
        except Exception as error:  # handed to the test, which runs in another thread
            self.outcome = error


def serves(registry: ReplicaRegistry) -> bool:
    return any(each.base_url for each in registry.all())


def ask(base_url: str, key: str) -> int:
    address = urlsplit(base_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    connection.request("POST", "/v1/chat/completions", json.dumps({"model": "student"}), {"Authorization": key})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.usefixtures("driver")
def test_what_was_asked_for_is_served_with_the_derived_key_until_it_is_asked_to_leave(
    run: RunFolder, registry: ReplicaRegistry
) -> None:
    asked = registry.ask(BACKBONE, identity(run))
    served = Serving(run, replica=asked)
    wait_until(lambda: serves(registry))
    (replica,) = registry.all()
    assert (replica.id, replica.concurrency) == (asked, 7)
    assert replica.base_url.startswith("http://127.0.0.1:")
    key = replica_key(run.ref.root, run.record.id, asked)
    assert ask(replica.base_url, f"Bearer {key}") == 200
    assert ask(replica.base_url, "Bearer another") == 401
    children = [command_line(pid) for pid in processes_below(os.getpid())]
    assert not any(key.encode() in words for words in children)
    registry.dismiss()
    assert served.end() == "asked to leave"
    assert registry.all() == []


@pytest.mark.usefixtures("driver")
def test_one_that_joins_serves_the_student_that_the_run_asks_for_now(run: RunFolder, registry: ReplicaRegistry) -> None:
    assert "asks for no such replica" in str(Serving(run, ASKED_NOW).end())
    asked = registry.ask(BACKBONE, identity(run))
    assert "asks for no such replica" in str(Serving(run, 3).end())
    served = Serving(run, ASKED_NOW)
    wait_until(lambda: serves(registry))
    (joined,) = [each for each in registry.all() if each.base_url]
    assert joined.id != asked
    assert (joined.round, joined.checkpoint) == (BACKBONE, identity(run))
    registry.dismiss()
    assert served.end() == "asked to leave"


def test_it_leaves_when_nobody_drives_the_run(run: RunFolder, registry: ReplicaRegistry) -> None:
    asked = registry.ask(BACKBONE, identity(run))
    assert "asks for no such replica" in str(Serving(run, replica=asked).end())
    with RunLease(store_url(run.config), run_key(run.config)):
        served = Serving(run, replica=asked)
        wait_until(lambda: serves(registry))
    assert served.end() == "nobody drives the run any more"
    assert registry.all() == []


@pytest.mark.usefixtures("driver")
def test_it_gives_signs_of_life(run: RunFolder, registry: ReplicaRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir_core.processes.HEARTBEAT_SECONDS", 0.02)
    served = Serving(run, replica=registry.ask(BACKBONE, identity(run)))
    wait_until(lambda: serves(registry))
    registry.abandon(registry.all()[0].id)
    wait_until(lambda: registry.all()[0].silent.total_seconds() < 5)
    registry.dismiss()
    served.end()


@pytest.mark.usefixtures("driver")
def test_a_server_that_dies_fails_it_with_the_log(run: RunFolder, registry: ReplicaRegistry) -> None:
    asked = registry.ask(BACKBONE, identity(run))
    served = Serving(run, replica=asked)
    wait_until(lambda: serves(registry))
    servers = [pid for pid in processes_below(os.getpid()) if b"--served-model-name" in command_line(pid)]
    for pid in servers:
        if b"supervisor_main" not in command_line(pid):
            os.kill(pid, signal.SIGKILL)
    outcome = served.end()
    assert isinstance(outcome, EngineError)
    assert f"of replica {asked} died; its log is " in str(outcome)
    assert registry.all() == []


@pytest.mark.usefixtures("driver")
def test_one_that_is_asked_to_leave_while_it_starts_leaves(
    run: RunFolder, registry: ReplicaRegistry, tmp_path: Path
) -> None:
    fake_python(tmp_path, health=503)
    served = Serving(run, replica=registry.ask(BACKBONE, identity(run)))
    wait_until(lambda: any(b"--served-model-name" in command_line(pid) for pid in processes_below(os.getpid())))
    registry.dismiss()
    assert served.end() == "asked to leave"


@pytest.mark.usefixtures("driver")
def test_another_checkpoint_than_the_drivers_is_not_served(run: RunFolder, registry: ReplicaRegistry) -> None:
    outcome = Serving(run, replica=registry.ask(BACKBONE, "another identity")).end()
    assert isinstance(outcome, TapirError)
    assert "another identity for the driver" in str(outcome)
    assert registry.all() == []


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(("host", "reason"), [("0.0.0.0", "no address that others can ask"), ("192.0.2.1", "listen")])
def test_a_host_that_is_no_address_of_this_machine_is_refused(
    run: RunFolder, registry: ReplicaRegistry, monkeypatch: pytest.MonkeyPatch, host: str, reason: str
) -> None:
    monkeypatch.setenv(HOST_VARIABLE, host)
    outcome = Serving(run, replica=registry.ask(BACKBONE, identity(run))).end()
    assert isinstance(outcome, ConfigError)
    assert host in str(outcome)
    assert reason in str(outcome)


def test_a_run_that_serves_its_student_itself_asks_for_no_replica(tmp_path: Path) -> None:
    run = open_run(make_config(tmp_path), {})
    with pytest.raises(ConfigError, match=r'student.engine.type = "vllm" and asks no replica'):
        serve_replica(run, ASKED_NOW, "", say=lambda _line: None, look_seconds=0.02)


@pytest.mark.usefixtures("driver")
def test_one_that_is_interrupted_is_dead_at_once_and_leaves_no_server(
    run: RunFolder, registry: ReplicaRegistry
) -> None:
    asked = registry.ask(BACKBONE, identity(run))
    with subprocess.Popen([sys.executable, "-c", SERVE, run.ref.root, asked], cwd=ROOT) as worker:
        wait_until(lambda: serves(registry))
        family = psutil.Process(worker.pid).children(recursive=True)
        os.kill(worker.pid, signal.SIGINT)
        worker.wait()
        assert registry.all()[0].is_dead()
        assert psutil.wait_procs(family, timeout=30)[1] == []


def test_a_checkpoint_on_s3_is_served_from_the_workers_scratch_folder(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path / "scratch"))
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    engine = {"type": "replicas", "python": fake_python(tmp_path)}
    student = {"engine": engine, "chat_template": str(tmp_path / "chat.jinja")}
    store = {"store_url": f"sqlite:///{tmp_path / 'store.sqlite'}"}
    run = build_run(
        "s3://runs/all",
        until=StageAt("train", 0),
        config=make_config("s3://runs/all", student=student, calls=store, data=NO_HELDOUT),
    )
    registry = ReplicaRegistry(store["store_url"], run_key(run.config))
    with RunLease(store["store_url"], run_key(run.config)):
        asked = registry.ask(0, current(run).student_at(0).identity)
        served = Serving(run, 0, asked)
        wait_until(lambda: serves(registry) or bool(served.outcome))
        registry.dismiss()
        assert served.end() == "asked to leave"
    close_all()
    registry.close()
    assert run.storage.exists(log_file(f"replica-{asked}")), "its log is uploaded"
