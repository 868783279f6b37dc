"""GPU workers and replicas on one machine: workers are killed with -9 at work, another one joins late."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tapir_core.calls.store.address import run_key
from tapir_core.calls.store.replicas import Replica, ReplicaRegistry
from tapir_core.paths import BACKBONE, FLEET_SECRET, attempt_folder
from tapir_core.stages import StageAt
from tapir_core.standin.running import StandinServer
from tasks.engines.replicas.key import replica_key
from tests.acceptance.leaks import find_leaks
from tests.end_to_end.harness import ROOT, Project, answered_twice
from tests.flows.commands.test_up import Console
from tests.tasks.engines.test_backbone import make_checkpoint

pytestmark = pytest.mark.operations

NAME = "served"
IN_FLIGHT = 2
"""At each replica."""
DEADLINE_SECONDS = 600

SLOW_SERVER = '''\
#!{python}
"""Stands in for the interpreter of an environment with vLLM: each answer takes a while and is noted in a file."""
import http.server, json, os, sys, time
if sys.argv[1] == "-c":
    print(json.dumps({{"found": True, "device": "cpu", "prefix": "/nowhere", "own": False, "versions": {{}}}}))
    sys.exit()
options = dict(zip(sys.argv[3:], sys.argv[4:]))
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, value):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())
    def do_GET(self):
        self.answer({{}})
    def do_POST(self):
        assert self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(0.2)
        with open({log!r}, "a") as log:
            log.write(json.dumps([os.getpid(), body["messages"][-1]["content"]]) + "\\n")
        message = {{"role": "assistant", "content": "Answer: 42"}}
        usage = {{"prompt_tokens": 9, "completion_tokens": 3}}
        self.answer({{"choices": [{{"index": 0, "message": message, "finish_reason": "stop"}}], "usage": usage}})
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
'''


class Fleet:
    """A run whose student is served by replicas, seen from outside."""

    def __init__(self, console: Console, student: Path, base_url: str, *more: str, **settings: str) -> None:
        roles = {f"{role}.endpoint": external(role, base_url) for role in ("teacher", "judge")}
        engine = {"type": "replicas", "replicas": "2", "concurrency": str(IN_FLIGHT)}
        engines = {f"student.engine.{field}": value for field, value in engine.items()}
        dotted = {field.replace("__", "."): value for field, value in settings.items()}
        self.console = console
        self.project = Project(console.root, student, {**roles, **engines, **dotted})
        self.run = self.project.folder(NAME)
        with (console.root / "driver.log").open("ab") as log:
            command = self.project.command(NAME, *more)
            self.driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        self.wait_until((console.root / NAME / "run.json").exists)
        self.registry = ReplicaRegistry(f"sqlite:///{console.root}/.tapir/store.sqlite", run_key(self.run.config))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.said()
            assert self.driver.poll() is None, self.said()
            time.sleep(0.1)

    def said(self) -> str:
        return (self.console.root / "driver.log").read_text()[-4000:]

    def serving(self) -> list[Replica]:
        return [each for each in self.registry.all() if each.base_url and not each.is_dead()]

    def trains(self, number: int) -> bool:
        key = self.run.key(StageAt("train", number))
        return key is not None and (self.console.root / NAME / attempt_folder(number, key) / "progress.jsonl").exists()

    def kill_worker_of(self, replica: Replica) -> list[psutil.Process]:
        """``kill -9``; gives what it had started."""
        assert replica.holder is not None
        return _kill_worker_above(psutil.Process(replica.holder.pid))

    def kill_worker_that_trains(self) -> list[psutil.Process]:
        """``kill -9``; gives what it had started."""
        return _kill_worker_above(next(each for each in self.console.family() if "deepspeed.launcher" in _words(each)))

    def attempts(self) -> int:
        """Times that the student was asked, or a replica that had just died."""
        with sqlite3.connect(self.console.root / ".tapir/store.sqlite", timeout=10) as connection:
            (attempts,) = connection.execute("SELECT sum(requests) FROM spending WHERE role = 'answer'").fetchone()
        return int(attempts)

    def trainings(self, number: int) -> list[str]:
        """How each attempt at a round's training ended, in their order."""
        wanted = {"flow_runs": {"tags": {"all_": [f"run-{NAME}", f"round-{number}"]}}}
        found = self.console.ask("/api/flow_runs/filter", {"flows": {"name": {"any_": ["fine-tune"]}}, **wanted})
        return [each["state"]["type"] for each in sorted(found, key=lambda each: str(each["created"]))]

    def flow_runs(self, after_round: int) -> list[dict[str, object]]:
        found = self.console.ask("/api/flow_runs/filter", {"flows": {"name": {"any_": ["serve-student"]}}})
        return [each for each in found if each["parameters"].get("after_round") == after_round]


def _kill_worker_above(process: psutil.Process) -> list[psutil.Process]:
    worker = next(each for each in process.parents() if "worker start --pool tapir-gpu" in _words(each))
    family = worker.children(recursive=True)
    os.kill(worker.pid, signal.SIGKILL)
    return family


def _words(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def secrets_left(fleet: Fleet) -> list[str]:
    """Where the fleet's secret or a key of a replica stands below the run root."""
    root = fleet.console.root
    replicas = [file.stem.removeprefix("replica-") for file in (root / NAME / "logs").glob("replica-*.log")]
    keys = [replica_key(str(root), fleet.run.record.id, replica) for replica in replicas]
    assert len(keys) == 4
    return sorted({leak.partition(":")[0] for leak in find_leaks(root, [(root / FLEET_SECRET).read_text(), *keys])})


def external(role: str, base_url: str) -> str:
    endpoint = f'{{ type = "openai", base_url = "{base_url}", model = "standin-{role}", identity = "external-1"'
    return f'{endpoint}, api_key_env = "" }}'


@pytest.fixture
def console(tmp_path: Path) -> Console:
    (tmp_path / "home").mkdir()
    return Console(tmp_path / "runs", tmp_path / "home")


def up(console: Console, workers: int) -> None:
    said = console.tapir("up", "--port", str(console.port), "--gpu-workers", str(workers))
    assert f"tapir-gpu-{workers}, for runs in" in said


def test_one_is_killed_and_one_cancelled_one_joins_from_the_ui_and_nothing_answered_is_asked_again(
    tmp_path: Path, console: Console
) -> None:
    backbone, log, python = make_checkpoint(tmp_path / "backbone"), tmp_path / "answers.jsonl", tmp_path / "python"
    python.write_text(SLOW_SERVER.format(python=sys.executable, log=str(log)))
    python.chmod(0o755)

    def answered() -> list[tuple[int, str]]:
        return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []

    with StandinServer() as teacher:
        try:
            up(console, 3)
            until = ("--until", f"answer_heldout@{BACKBONE}")
            rows = {"data__heldout__dev": "700", "data__heldout__test": "700"}
            fleet = Fleet(console, backbone, teacher.base_url, *until, **rows, student__engine__python=str(python))
            fleet.wait_until(lambda: len(fleet.serving()) == 2 and len(answered()) >= 40)
            dead, alive = fleet.serving()
            family = fleet.kill_worker_of(dead)
            deployment = console.ask("/api/deployments/name/serve-student/serve-student")["id"]
            start = {"parameters": {"run": NAME}, "state": {"type": "SCHEDULED"}}
            console.ask(f"/api/deployments/{deployment}/create_flow_run", start)
            fleet.wait_until(lambda: dead.id not in [each.id for each in fleet.registry.all()])
            assert alive.id in [each.id for each in fleet.serving()]
            fleet.wait_until(lambda: len(fleet.serving()) == 3)
            (cancelled,) = [each for each in fleet.flow_runs(BACKBONE) if f"replica-{alive.id}" in each["tags"]]
            console.ask(f"/api/flow_runs/{cancelled['id']}/set_state", {"state": {"type": "CANCELLING"}})
            fleet.wait_until(lambda: alive.id not in [each.id for each in fleet.registry.all()])
            assert fleet.driver.wait(DEADLINE_SECONDS) == 0, fleet.said()
            assert len(fleet.flow_runs(BACKBONE)) == 3, "the killed one was replaced, the cancelled one was not"
            left = [*family, *console.family()]
        finally:
            console.tapir("down")
    assert psutil.wait_procs(left, timeout=30)[1] == []
    asked = Counter(prompt for _, prompt in answered() if prompt != "Hello")
    assert len(asked) == fleet.project.stored("answer")
    assert sum(asked.values()) - len(asked) <= 2 * IN_FLIGHT
    assert len({server for server, _ in answered()}) == 4
    assert fleet.registry.all() == []
    assert secrets_left(fleet) == [FLEET_SECRET]


@pytest.mark.skipif(
    not os.access(ROOT / ".venv-vllm/bin/python", os.X_OK), reason="needs .venv-vllm: run `make student-env`"
)
def test_a_run_is_served_and_trained_by_two_workers_of_which_one_is_killed_while_it_answers_and_one_while_it_trains(
    tmp_path: Path, console: Console
) -> None:
    student, log = tmp_path / "tiny", tmp_path / "standin.jsonl"
    command = [sys.executable, "-m", "tasks.engines.tiny_student", str(student), "1"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    with StandinServer(log_path=log) as server:
        try:
            up(console, 2)
            settings = {"run__rounds": "1", "student__sampling__max_tokens": "192"}
            training = {"runs_on": '"worker"', "save_minutes": "1e-6"}
            settings |= {f"training__{field}": value for field, value in training.items()}
            fleet = Fleet(console, student, server.base_url, **settings, rounds__default__epochs="20")

            def round_1_is_answered() -> bool:
                return fleet.run.holds(StageAt("evaluate", 0)) is not None and fleet.project.stored("answer") >= 86

            fleet.wait_until(lambda: round_1_is_answered() and len(fleet.serving()) == 2)
            dead, alive = fleet.serving()
            family = fleet.kill_worker_of(dead)
            fleet.wait_until(lambda: dead.id not in [each.id for each in fleet.registry.all()])
            assert alive.id in [each.id for each in fleet.serving()]
            fleet.wait_until(lambda: fleet.trains(1))
            assert fleet.registry.all() == [], "the GPUs are given back before training"
            family += fleet.kill_worker_that_trains()
            assert fleet.driver.wait(DEADLINE_SECONDS) == 0, fleet.said()
            assert fleet.run.holds(StageAt("evaluate", 1)) is not None
            assert fleet.trainings(1) == ["CRASHED", "COMPLETED"]
            assert len(fleet.flow_runs(0)) == 3, "the killed one was replaced"
            left = [*family, *console.family()]
        finally:
            console.tapir("down")
    assert psutil.wait_procs(left, timeout=30)[1] == []
    assert answered_twice(log) == 0, "nothing of teacher and judge was in flight at a replica"
    assert fleet.attempts() - fleet.project.stored("answer") <= 4 * IN_FLIGHT
