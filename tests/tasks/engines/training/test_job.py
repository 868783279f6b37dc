import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tapir_core.config import LoraConfig, TrainingConfig
from tasks.engines.training.launch import Attempt, TrainingJob


def make_job(folder: Path, **changes: Any) -> TrainingJob:
    fields: dict[str, Any] = {
        "base": folder / "base",
        "mixture": (folder / "part.parquet",),
        "output": folder / "attempt",
        "training": TrainingConfig(lora=LoraConfig()),
        "epochs": 1.5,
        "learning_rate": 1e-4,
        "seed": 7,
        "log_path": folder / "train.log",
    }
    return TrainingJob(**{**fields, **changes})


def test_a_job_survives_the_way_through_its_file(tmp_path: Path) -> None:
    job = make_job(tmp_path, chat_template=tmp_path / "chat.jinja")
    assert TrainingJob(**json.loads(json.dumps(job.to_json()))) == job


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 2.0},
        {"learning_rate": 1e-5},
        {"seed": 8},
        {"base": Path("other")},
        {"mixture": (Path("other"),)},
        {"chat_template": Path("other")},
        {"rollouts": (Path("other"),)},
        {"training": TrainingConfig(lora=LoraConfig(rank=4))},
        {"training": TrainingConfig(lora=LoraConfig(), batch_size=64)},
        {"training": TrainingConfig(lora=LoraConfig(), micro_batch_size=4)},
        {"training": TrainingConfig(lora=LoraConfig(), zero_stage=1)},
        {"training": TrainingConfig(lora=LoraConfig(), offload="optimizer")},
    ],
)
def test_what_can_change_the_weights_or_what_a_save_depends_on_changes_the_identity(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    assert make_job(tmp_path, **change).identity != make_job(tmp_path).identity


def test_what_is_free_and_no_part_of_a_save_does_not_change_the_identity(tmp_path: Path) -> None:
    how = {
        "attention": "sdpa",
        "runs_on": "worker",
        "processes": 2,
        "nodes": 2,
        "save_minutes": 1,
        "grace_seconds": 1,
        "gradient_checkpointing": True,
        "report_to": "wandb",
    }
    free = TrainingConfig.with_mark("free").keys() - TrainingConfig.with_mark("saves")
    assert how.keys() == free, "add it here; a save that only goes on with the same value of it is `InSaves`"
    training = TrainingConfig(lora=LoraConfig(), **how)
    other = make_job(tmp_path, training=training, output=tmp_path / "x", log_path=tmp_path / "y")
    assert other.identity == make_job(tmp_path).identity


def test_a_machine_that_finds_the_root_elsewhere_goes_on_from_the_saves_of_another(tmp_path: Path) -> None:
    def job_at(root: Path) -> TrainingJob:
        template, rolled = root / "lib/qwen.jinja", (root / "round_01/rollouts/00.parquet",)
        return make_job(root, output=tmp_path / "shared", chat_template=template, rollouts=rolled, scores=rolled)

    first, other = job_at(tmp_path / "mnt/a"), job_at(tmp_path / "b")
    attempt = Attempt(tmp_path / "shared")
    attempt.open(first)
    (attempt.folder / "saves").mkdir()
    attempt.open(other)
    assert (attempt.folder / "saves").exists()
    assert json.loads((attempt.folder / "job.json").read_text())["base"] == str(tmp_path / "b/base")


def test_an_attempt_keeps_what_its_own_job_left_and_drops_what_another_left(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    attempt = Attempt(job.output)
    attempt.open(job)
    attempt.saves.mkdir()
    attempt.open(dataclasses.replace(job, log_path=tmp_path / "elsewhere.log"))
    assert attempt.saves.exists()
    attempt.open(dataclasses.replace(job, seed=8))
    assert not attempt.saves.exists()
    assert attempt.summary() is None
