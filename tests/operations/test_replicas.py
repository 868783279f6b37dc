"""Two GPU workers and two replicas on one machine; one worker is killed with -9 while the student answers."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tapir_core.calls.store.address import run_key
from tapir_core.calls.store.replicas import Replica, ReplicaRegistry
from tapir_core.paths import attempt_folder
from tapir_core.stages import StageAt
from tapir_core.standin.running import StandinServer
from tests.end_to_end.harness import ROOT, Project, answered_twice
from tests.flows.commands.test_up import Console

pytestmark = [
    pytest.mark.operations,
    pytest.mark.skipif(
        not os.access(ROOT / ".venv-vllm/bin/python", os.X_OK), reason="needs .venv-vllm: run `make student-env`"
    ),
]

IN_FLIGHT = 2
"""At each replica."""
DEADLINE_SECONDS = 600


@pytest.fixture
def student(tmp_path: Path) -> Path:
    command = [sys.executable, "-m", "tasks.engines.tiny_student", str(tmp_path / "tiny"), "1"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return tmp_path / "tiny"


class Fleet:
    """A run whose student is served by replicas, seen from outside."""

    def __init__(self, console: Console, project: Project) -> None:
        self.console, self.project = console, project
        self.run = project.folder("served")
        self.driver = project.start("served")
        self.wait_until(lambda: (self.console.root / "served/run.json").exists())
        store = f"sqlite:///{self.console.root}/.tapir/store.sqlite"
        self.registry = ReplicaRegistry(store, run_key(self.run.config))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.said()
            assert self.driver.poll() is None, self.said()
            time.sleep(0.1)

    def said(self) -> str:
        return (self.console.root / "served.driver.log").read_text()[-4000:]

    def serving(self) -> list[Replica]:
        return [each for each in self.registry.all() if each.base_url and not each.is_dead()]

    def answers_round_1(self) -> bool:
        return self.run.holds(StageAt("evaluate", 0)) is not None and self.project.stored("answer") >= 86

    def trains(self) -> bool:
        key = self.run.key(StageAt("train", 1))
        return key is not None and (self.console.root / "served" / attempt_folder(1, key) / "progress.jsonl").exists()

    def kill_worker_of(self, replica: Replica) -> list[psutil.Process]:
        assert replica.holder is not None
        worker = next(
            each
            for each in psutil.Process(replica.holder.pid).parents()
            if each.cmdline()[3:5] == ["worker", "start"] and "tapir-gpu" in each.cmdline()
        )
        family = worker.children(recursive=True)
        os.kill(worker.pid, signal.SIGKILL)
        return family

    def spent(self) -> int:
        """Attempts to ask the student, those at a replica that had just died included."""
        with sqlite3.connect(self.console.root / ".tapir/store.sqlite", timeout=10) as connection:
            (attempts,) = connection.execute("SELECT sum(requests) FROM spending WHERE role = 'answer'").fetchone()
        return int(attempts)


def test_a_run_goes_on_when_a_worker_with_its_replica_is_killed_and_pays_nothing_again(
    tmp_path: Path, student: Path
) -> None:
    (tmp_path / "home").mkdir()
    console, log = Console(tmp_path / "runs", tmp_path / "home"), tmp_path / "standin.jsonl"
    with StandinServer(log_path=log) as server:
        try:
            said = console.tapir("up", "--port", str(console.port), "--gpu-workers", "2")
            assert "tapir-gpu, tapir-gpu-2" in said
            fleet = Fleet(console, make_project(console.root, student, server.base_url))
            fleet.wait_until(lambda: fleet.answers_round_1() and len(fleet.serving()) == 2)
            dead, alive = fleet.serving()
            family = fleet.kill_worker_of(dead)
            fleet.wait_until(lambda: dead.id not in [each.id for each in fleet.registry.all()])
            assert alive.id in [each.id for each in fleet.serving()]
            fleet.wait_until(fleet.trains)
            assert fleet.registry.all() == [], "the GPUs are given back before training"
            assert fleet.driver.wait(DEADLINE_SECONDS) == 0, fleet.said()
            assert fleet.run.holds(StageAt("train", 1)) is not None
            flow_runs = console.ask("/api/flow_runs/filter", {"flows": {"name": {"any_": ["serve-student"]}}})
            replaced = [each for each in flow_runs if each["parameters"]["after_round"] == 0]
            assert len(replaced) == 3
            left = [*family, *console.family()]
        finally:
            console.tapir("down")
    assert psutil.wait_procs(left, timeout=30)[1] == []
    assert answered_twice(log) == 0, "the stand-in was at no replica"
    assert fleet.spent() - fleet.project.stored("answer") <= 4 * IN_FLIGHT


def make_project(root: Path, student: Path, base_url: str) -> Project:
    settings = {
        "run.rounds": "1",
        "student.engine.type": "replicas",
        "student.engine.replicas": "2",
        "student.engine.concurrency": str(IN_FLIGHT),
        "student.sampling.max_tokens": "192",
    }
    for role in ("teacher", "judge"):
        endpoint = f'{{ type = "openai", base_url = "{base_url}", model = "standin-{role}", identity = "external-1"'
        settings[f"{role}.endpoint"] = f'{endpoint}, api_key_env = "" }}'
    return Project(root, student, {**settings, "run.rounds": "1"})
