"""Who trains promotes what came of it, and only while the run still asks for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from tapir_core.errors import RunBusy, RunChanged
from tapir_core.leases import Holding
from tapir_core.run_folder import open_run
from tapir_core.stages import StageAt
from tasks.engines.backbone import checkpoint_digest
from tasks.engines.tiny_student import tiny_student
from tasks.engines.training.launch import Attempt, TrainingJob, TrainingProgress, TrainingSummary
from tasks.runtime import close_all
from tasks.train import count_round, make_student, training_lease
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.tasks.trained_run import make_trained_run

AT = StageAt("train", 0)


def test_a_finished_attempt_is_promoted_and_its_folder_goes(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path)
    with training_lease(run, AT) as lease:
        summary = make_student(run, AT, lease, lambda _: None)
    assert summary.in_words() == "4 steps, final loss 1.500, 250 tokens/s"
    assert run.storage.read_bytes(f"{AT.folder}/model.safetensors") == b"weights"
    assert run.holds(AT) is not None
    assert run.storage.names("round_00/training") == []


def test_a_training_that_the_run_asks_for_no_more_is_not_promoted(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path)
    assert run.key(AT) is not None
    tuning = {**run.config.basic_tuning.model_dump(), "learning_rate": 1e-5}
    config = run.config.model_validate({**run.config.model_dump(), "basic_tuning": tuning})
    amended = open_run(config, run.record.ingredients, amend=True)
    with training_lease(run, AT) as lease, pytest.raises(RunChanged, match="asks for another student"):
        make_student(run, AT, lease, lambda _: None)
    assert amended.manifest(AT) is None
    assert not run.storage.exists(AT.folder)


def test_a_template_that_was_edited_since_the_run_was_opened_is_not_trained_with(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path)
    run.record.ingredients["file:chat_template"] = "of another file"
    with training_lease(run, AT) as lease, pytest.raises(RunChanged, match="chat_template on this machine is not"):
        make_student(run, AT, lease, lambda _: None)


def test_one_process_trains_a_student(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path)
    with training_lease(run, AT), pytest.raises(RunBusy, match="example/round_00/checkpoint"):
        training_lease(run, AT).acquire()


def test_a_training_that_was_taken_over_is_not_promoted(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path)
    lost = training_lease(run, AT)
    with pytest.raises(RunBusy, match="promotes nothing"):
        make_student(run, AT, lost, lambda _: None)
    lost.release()
    assert run.holds(AT) is None


def tells(monkeypatch: pytest.MonkeyPatch, after: list[str]) -> None:
    """A training that tells of a step, and is then done."""

    def train(_job: TrainingJob, *, on_progress: Callable[[TrainingProgress], None], meet: object) -> TrainingSummary:
        on_progress(TrainingProgress(1, 4, 2.0, 100, 50.0, 6.0))
        after.append("went on")
        made = Attempt(_job.output).summary()
        assert made is not None
        return made

    monkeypatch.setattr("tasks.train._TOLD_SECONDS", 0)
    monkeypatch.setattr("tasks.train.launch.train_student", train)


def test_a_training_that_was_taken_over_stops_at_its_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, after = make_trained_run(tmp_path), list[str]()
    tells(monkeypatch, after)
    lost = training_lease(run, AT)
    with training_lease(run, AT), pytest.raises(RunBusy, match=r"took the training of .* over"):
        make_student(run, AT, lost, lambda _: None)
    lost.release()
    assert after == []


def test_a_store_that_is_away_for_a_moment_stops_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, after = make_trained_run(tmp_path), list[str]()
    tells(monkeypatch, after)
    with training_lease(run, AT) as lease:
        held, away = lease.holding, iter([True])

        def holding() -> Holding | None:
            if next(away, False):
                raise OperationalError("SELECT", {}, OSError("no route"))
            return held()

        monkeypatch.setattr(lease, "holding", holding)
        make_student(run, AT, lease, lambda _: None)
    assert after == ["went on"]
    assert run.holds(AT) is not None


@pytest.mark.operations
def test_a_round_is_counted_with_its_own_batch_size_before_it_is_trained(tmp_path: Path) -> None:
    base = tiny_student(tmp_path / "base")
    rounds = {"default": {"examples": 96, "selection": {"type": "hard_share"}, "epochs": 1.0}, "1": {"batch_size": 37}}
    config = make_config(tmp_path / "runs", student={"backbone": str(base)}, rounds=rounds)
    run = build_run(
        tmp_path / "runs", until=StageAt("mix", 1), config=config, student=base, backbone=checkpoint_digest(base)
    )
    first, second = (count_round(run, number) for number in (0, 1))
    assert (first.examples, first.steps, first.epochs) == (64, -(-3 * 64 // 128), 3.0)
    rows = run.rows(StageAt("mix", 1)).height
    assert (second.examples, second.steps) == (rows, -(-rows // 37))
    assert 0 < second.loss_tokens < second.tokens
    close_all()
