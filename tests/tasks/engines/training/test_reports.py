"""Who is told of each step: packages and keys that it needs, where the reports lie; no weight depends on it."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tapir_core.config import TrainingConfig
from tapir_core.errors import MissingPrerequisite
from tasks.engines import keys
from tasks.engines.tiny_student import tiny_student
from tasks.engines.training.launch import Node, TrainingJob, rank_environments, report_environment, train_student
from tasks.engines.training.prerequisites import check_packages
from tests.tasks.engines.training.test_trainer import make_job, write_mixture

FAKE = """
import json, os
class SummaryWriter:
    def __init__(self, log_dir):
        os.makedirs(log_dir)
        self.file = open(os.path.join(log_dir, "scalars"), "w")
    def add_scalar(self, *scalar):
        print(json.dumps(scalar), file=self.file)
    def add_text(self, *_): pass
    def flush(self): self.file.flush()
    def close(self): self.file.close()
"""
"""tensorboardX as far as transformers uses it."""


def settings(*reporters: str, **others: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"report_to": reporters, **others})


def lacking(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(folder)])


def package(folder: Path, name: str, source: str = "") -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)


def test_one_reporter_may_be_named_by_itself() -> None:
    one = TrainingConfig.model_validate({"report_to": "wandb"})
    assert one == settings("wandb")
    assert TrainingConfig().report_to == settings().report_to == ()


def test_a_package_that_lacks_is_told_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(tmp_path, monkeypatch)
    for reporter in ("tensorboard", "wandb"):
        with pytest.raises(MissingPrerequisite, match=rf"python\S* -m pip install {reporter}`"):
            check_packages(settings(reporter))
    package(tmp_path, "tensorboard")
    check_packages(settings("tensorboard"))


def test_a_key_that_lacks_is_told_unless_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(tmp_path, monkeypatch)
    package(tmp_path, "wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(MissingPrerequisite, match=r"export WANDB_API_KEY=.*WANDB_MODE=offline"):
        check_packages(settings("wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_packages(settings("wandb"))
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "sesame")
    check_packages(settings("wandb"))


def test_the_key_of_weights_and_biases_goes_to_who_reports_there_and_no_other_key_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "sesame")
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")

    def secrets(job: TrainingJob) -> list[str]:
        ranks = rank_environments(job, keys.keyless_environment(), [], Node(("127.0.0.1", 4321), "lo", 0, 2))
        ranks[0] |= report_environment(job, os.environ)
        return [name for rank in ranks for name, value in rank.items() if value == "sesame"]

    two = settings("wandb", "tensorboard", processes=2)
    assert secrets(make_job(tmp_path, training=two)) == ["WANDB_API_KEY"]
    assert secrets(make_job(tmp_path, training=settings("tensorboard", processes=2))) == []


def test_reports_change_no_student(tmp_path: Path) -> None:
    plain, reported = make_job(tmp_path, training=settings()), make_job(tmp_path, training=settings("tensorboard"))
    assert plain.identity == reported.identity
    assert plain.training.shaping() == reported.training.shaping()


@pytest.mark.operations
def test_the_loss_of_each_step_is_reported_beside_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_student(tmp_path / "base")
    write_mixture(tmp_path / "part.parquet")
    package(tmp_path, "tensorboardX", FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    # Of a job that the driver is part of: on a processor fp16 would end the training.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "http://127.0.0.1:9")
    training = settings("tensorboard", precision="fp32", batch_size=20, micro_batch_size=20)
    summary = train_student(make_job(tmp_path, training=training, log_path=tmp_path / "logs" / "train-01.log"))
    lines = (tmp_path / "logs" / "tensorboard" / "train-01" / "scalars").read_text().splitlines()
    losses = [value for name, value, _ in map(json.loads, lines) if name == "train/loss"]
    assert losses == [step["loss"] for step in summary.loss_curve]
