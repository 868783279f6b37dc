"""A training on a GPU worker outlives its driver, and the run outlives that worker: `kill -9` of each, on DeepSpeed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt, plan
from tests.flows.commands.test_up import ROOT, Console

pytestmark = [
    pytest.mark.operations,
    pytest.mark.skipif(
        not os.access(ROOT / ".venv-vllm" / "bin" / "python", os.X_OK),
        reason="needs .venv-vllm: run `make student-env`",
    ),
]

DEADLINE_SECONDS = 600
NAME = "followed"


def wait_for(what: str, look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.2)
    return found


class Fleet(Console):
    """A system with a worker of each pool, and the run that it is given."""

    def flow_runs(self, flow: str, *tags: str) -> list[dict[str, Any]]:
        """Oldest first."""
        wanted = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"tags": {"all_": list(tags)}}}
        found: Any = self.ask("/api/flow_runs/filter", wanted)
        return sorted(found, key=lambda each: each["created"])

    def state(self, flow_run: str) -> str:
        return self.ask(f"/api/flow_runs/{flow_run}")["state"]["type"]

    def start(self, **parameters: Any) -> str:
        deployment = self.ask("/api/deployments/name/distill/distill")["id"]
        start = {"parameters": {"run": NAME, **parameters}, "state": {"type": "SCHEDULED"}}
        return self.ask(f"/api/deployments/{deployment}/create_flow_run", start)["id"]

    def cancel(self, flow_run: str) -> None:
        """What the button does."""
        self.ask(f"/api/flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})

    def retry(self, flow_run: str) -> None:
        """What the button does."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry"}
        self.ask(f"/api/flow_runs/{flow_run}/set_state", {"state": state, "force": True})

    def processes(self, pool: str, word: str) -> list[psutil.Process]:
        """What runs below a pool's worker and has this in its command, without the supervisors of such a child."""
        found = []
        for each in self.family():
            try:
                above, command = [parent.pid for parent in each.parents()], " ".join(each.cmdline())
                if word in command and "supervisor_main" not in command and self.worker(pool).pid in above:
                    found.append(each)
            except (psutil.NoSuchProcess, StopIteration):
                continue
        return found

    def hold_training(self, number: int, *, saved: bool = False) -> list[psutil.Process]:
        """Stop the trainer of a round at work, so that it works as long as the test wants; its processes."""
        attempts = self.root / NAME / f"round_{number:02d}" / "training"
        sign = "*/saves/step-*" if saved else "*/progress.jsonl"
        wait_for(f"the training of round {number}", lambda: list(attempts.glob(sign)))
        trainer = wait_for("its processes", lambda: self.processes("tapir-gpu", "tasks.engines.trainer_main"))
        for each in trainer:
            each.suspend()
        return trainer

    def all_of_it(self) -> list[psutil.Process]:
        """Every process that names the root, whoever its parent is."""
        found = []
        for each in psutil.process_iter():
            try:
                if each.pid != os.getpid() and any(str(self.root) in part for part in each.cmdline()):
                    found.append(each)
            except psutil.NoSuchProcess:
                continue
        return found


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    home = tmp_path / "home"
    home.mkdir()
    fleet = Fleet(tmp_path / "runs", home)
    fleet.up()
    yield fleet
    left = fleet.family()
    fleet.tapir("down")
    assert psutil.wait_procs(left, timeout=30)[1] == []
    assert fleet.all_of_it() == []


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    student = tmp_path / "tiny"
    command = [sys.executable, "-m", "tasks.engines.tiny_student", str(student), "1"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return [
        f"student.backbone={json.dumps(str(student))}",
        'training.runs_on="worker"',
        "training.save_minutes=1e-6",
        "basic_tuning.epochs=20",
        "rounds.default.epochs=20",
        'data.heldout=""',
    ]


def test_driver_and_trainer_survive_each_other(fleet: Fleet, settings: list[str]) -> None:
    run = RunFolder(RunRef(str(fleet.root), NAME))
    driver = fleet.start(preset="test", rounds=1, overrides=settings)

    trainer = fleet.hold_training(0)
    fleet.cancel(driver)
    wait_for("the end of the driver", lambda: fleet.state(driver) == "CANCELLED")
    assert psutil.wait_procs(trainer, timeout=30)[1] == []
    wait_for("the end of its training", lambda: states(fleet, 0) == ["CANCELLED"])
    fleet.retry(driver)

    trainer = fleet.hold_training(0)
    for each in fleet.processes("tapir-cpu", "prefect.engine"):
        each.kill()
    wait_for("the end of the driver", lambda: fleet.state(driver) == "CRASHED")
    assert all(each.is_running() for each in trainer), "the training outlives its driver"
    fleet.retry(driver)
    wait_for("the third driver", lambda: len(said(fleet, driver, "attempt 2")) == 2)
    for each in trainer:
        each.resume()
    wait_for("S_0", lambda: run.holds(StageAt("train", 0)))
    assert len(states(fleet, 0)) == 2, "one that was cancelled, and one for two drivers"
    assert started(run, 0) <= 2

    trainer = fleet.hold_training(1, saved=True)
    fleet.worker("tapir-gpu").kill()
    wait_for("the end of the driver", lambda: fleet.state(driver) in ("COMPLETED", "FAILED", "CRASHED"))
    assert fleet.state(driver) == "COMPLETED"
    assert psutil.wait_procs(trainer, timeout=10)[1] == []
    assert [str(at) for at in plan(run.config) if run.holds(at) is None] == []
    assert states(fleet, 1) == ["CRASHED", "COMPLETED"]
    lost, _ = fleet.flow_runs("fine-tune", f"run-{NAME}", "round-1")
    assert "No sign of life" not in lost["state"]["message"], "its driver sees it long before the server does"
    trained = json.loads(run.storage.read_bytes("round_01/checkpoint/training.json"))
    assert trained["resumed_from_steps"] != []
    assert started(run, 1) == 2


def states(fleet: Fleet, number: int) -> list[str]:
    """Of the attempts at a round's training, in their order."""
    return [each["state"]["type"] for each in fleet.flow_runs("fine-tune", f"run-{NAME}", f"round-{number}")]


def said(fleet: Fleet, flow_run: str, text: str) -> list[str]:
    """Newest first."""
    wanted = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_DESC"}
    found: Any = fleet.ask("/api/logs/filter", wanted)
    return [each["message"] for each in found if text in each["message"]]


def started(run: RunFolder, number: int) -> int:
    """How often a trainer looked before its first step."""
    return run.storage.read_bytes(f"logs/train-{number:02d}.log").count(b"one example, trained between")
