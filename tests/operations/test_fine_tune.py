"""A training on a GPU worker outlives its driver, and the run outlives that worker: `kill -9` of each, on DeepSpeed."""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt, plan
from tests.harness.flow_run import FlowRun
from tests.harness.standing_root import StandingRoot
from tests.students import make_tiny_students, needs_student_env

pytestmark = [pytest.mark.operations, needs_student_env]

NAME = "followed"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[StandingRoot]:
    with StandingRoot(tmp_path, patience_seconds=600) as root:
        root.up()
        yield root


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    [student] = make_tiny_students(tmp_path, 1)
    return [
        f"student.backbone={json.dumps(str(student))}",
        'training.runs_on="worker"',
        "training.save_minutes=1e-6",
        "basic_tuning.epochs=20",
        "rounds.default.epochs=20",
        'data.heldout=""',
    ]


def test_driver_and_trainer_survive_each_other(root: StandingRoot, settings: list[str]) -> None:
    run = root.run(NAME)
    driver = root.start("distill", run=NAME, preset="test", rounds=1, overrides=settings)

    trainer = hold_training(root, 0)
    driver.press("cancel")
    driver.wait_for("Cancelled")
    assert psutil.wait_procs(trainer, timeout=30)[1] == []
    root.wait_until(lambda: states(root, 0) == ["CANCELLED"], "the training has not ended")
    driver.press("retry")

    trainer = hold_training(root, 0)
    driver.process().kill()
    driver.wait_for("Crashed")
    assert all(each.is_running() for each in trainer), "the training outlives its driver"
    driver.retry_until_it_goes_on()
    root.wait_until(lambda: len(driver.logged("attempt 2")) == 2, "no third driver")
    for each in trainer:
        each.resume()
    root.wait_until(lambda: run.holds(StageAt("train", 0)), "no S_0")
    assert len(states(root, 0)) == 2, "one that was cancelled, and one for two drivers"
    assert started(run, 0) <= 2

    trainer = hold_training(root, 1, saved=True)
    root.worker("tapir-gpu").kill()
    assert driver.wait_for().type == "COMPLETED"
    assert psutil.wait_procs(trainer, timeout=10)[1] == []
    assert [str(at) for at in plan(run.config) if run.holds(at) is None] == []
    assert states(root, 1) == ["CRASHED", "COMPLETED"]
    lost, _ = trainings(root, 1)
    assert "No sign of life" not in lost.state().message, "its driver sees it long before the server does"
    trained = json.loads(run.storage.read_bytes("round_01/checkpoint/training.json"))
    assert trained["resumed_from_steps"] != []
    assert started(run, 1) == 2


def hold_training(root: StandingRoot, number: int, *, saved: bool = False) -> list[psutil.Process]:
    """Stop the trainer of a round at work, so that it works as long as the test wants; its processes."""
    attempts = Path(root.root, NAME, f"round_{number:02d}", "training")
    sign = "*/saves/step-*" if saved else "*/progress.jsonl"
    root.wait_until(lambda: list(attempts.glob(sign)), f"round {number} does not train")
    trainer = root.wait_until(
        lambda: root.at_work("tapir-gpu", "tasks.engines.training.trainer"), "no trainer is at work"
    )
    for each in trainer:
        each.suspend()
    return trainer


def trainings(root: StandingRoot, number: int) -> list[FlowRun]:
    """The attempts at a round's training, in their order."""
    return root.flow_runs("fine-tune", tags=(f"run-{NAME}", f"round-{number}"))


def states(root: StandingRoot, number: int) -> list[str]:
    """Of the attempts at a round's training, in their order."""
    return [each.state().type for each in trainings(root, number)]


def started(run: RunFolder, number: int) -> int:
    """How often a trainer looked before its first step."""
    return run.storage.read_bytes(f"logs/train-{number:02d}.log").count(b"one example, trained between")
