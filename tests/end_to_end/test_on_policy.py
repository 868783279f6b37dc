"""An on-policy round on real vLLM and DeepSpeed: rollouts, scores by a teacher that the run serves, a training."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from safetensors.torch import load_file, save_file

from flows.distill import distill
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.runtime import close_all
from tests.run_builder import build_run
from tests.run_config import make_config

pytestmark = [pytest.mark.operations, pytest.mark.usefixtures("prefect_server")]

NORM = "model.norm.weight"
SERVED = {"type": "vllm", "dtype": "float32", "cpu_kv_cache_gib": 1, "max_model_length": 1024}


def surer(model: Path, folder: Path) -> Path:
    """The same model, four times as sure of itself: what it never saw, here all, it finds less likely."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {NORM: 4 * weights[NORM]}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def run(tmp_path: Path, tiny_students: list[Path]):
    student, teacher = surer(tiny_students[0], tmp_path / "student"), tiny_students[1]
    rounds = {
        "default": {
            "examples": 12,
            "alpha": 1.0,
            "selection": {"type": "hard_share", "share": 0.3},
            "objective": {"type": "on_policy", "loss": "forward_kl", "top_k": 8},
            "learning_rate": 1e-3,
        }
    }
    config = make_config(
        tmp_path,
        run={"rounds": 1},
        teacher={"endpoint": {**SERVED, "model": str(teacher)}},
        judge={"endpoint": {"type": "standin"}},
        student={
            "backbone": str(student),
            "engine": {**SERVED, "concurrency": 8},
            "sampling": {"max_tokens": 24},
        },
        rounds=rounds,
        training={"precision": "fp32", "batch_size": 8, "micro_batch_size": 4},
        calls={"rows_per_shard": 8},
    )
    yield build_run(tmp_path, until=StageAt("mix", 1), config=config, student=student)
    close_all()


def test_rollouts_are_scored_and_trained_on_token_by_token(run: RunFolder) -> None:
    distill(run.ref, until="train")
    mixture = run.rows(StageAt("mix", 1))
    drawn, scored = run.rows(StageAt("rollout", 1)), run.rows(StageAt("score", 1))
    assert {*drawn["instruction_id"]} == {*scored["instruction_id"]} == {*mixture["instruction_id"]}
    assert (drawn["token_ids"].list.len() == drawn["log_probs"].list.len()).all()
    assert (drawn["token_ids"].list.len() == scored["log_probs"].list.len()).all()
    assert scored["top_ids"].explode().list.len().unique().to_list() == [8]
    told = json.loads(run.storage.read_bytes("round_01/checkpoint/training.json"))
    assert told["objective"] == "on_policy"
    assert told["examples"] == mixture.height
    assert told["trained_tokens"] == drawn["token_ids"].list.len().sum()
    gap = scored["log_probs"].explode() - drawn["log_probs"].explode()
    assert abs(gap.mean()) > 0.01, "another model scores otherwise"
    assert told["loss_curve"][-1]["loss"] < told["loss_curve"][0]["loss"] + 1.0
    first = run.rows(StageAt("rollout", 1))
    run.storage.remove("round_01/rollout_scores/manifest.json")
    run.storage.remove("round_01/rollouts/manifest.json")
    distill(run.ref, until="score")
    assert run.rows(StageAt("rollout", 1)).equals(first), "what was drawn and stored is drawn again"


def test_a_score_belongs_to_the_rollouts_of_one_checkpoint(run: RunFolder) -> None:
    at = StageAt("rollout", 1)
    row = ("x", 1, [1, 2], [3], [-0.5], "stop")
    run.write(at, pl.DataFrame([row], schema=at.stage.columns, orient="row"))
    score = StageAt("score", 1)
    run.write(score, pl.DataFrame([("x", 1, [-0.2], [[]], [[]])], schema=score.stage.columns, orient="row"))
    assert run.holds(score) is not None
    run.write(at, pl.DataFrame([("x", 1, [1, 2], [4], [-0.7], "stop")], schema=at.stage.columns, orient="row"))
    assert run.holds(score) is None, "scores of other tokens"


def test_the_doctor_lets_two_models_draw_and_score_answers(tiny_students: list[Path], tmp_path: Path) -> None:
    student, teacher = map(str, tiny_students)
    command = [sys.executable, "-m", "flows.cli", "doctor", "--pair", teacher, student, "--try", "--json"]
    done = subprocess.run([*command, "--root", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {each["part"]: each for each in json.loads(done.stdout)["findings"]}
    assert {each["level"] for each in found.values()} == {"ok"}, found
    assert {*list(found)[-5:]} == {
        *("teacher: scores of its own", "teacher: likeliest tokens", "teacher: repeated scores", "teacher: lead"),
        "student: scores of its own",
    }
    assert found["teacher: likeliest tokens"]["found"].startswith("32 of each of ")
    same = subprocess.run([*command[:5], teacher, teacher, *command[7:]], capture_output=True, text=True, check=False)
    assert same.returncode == 1
    [fault] = [each for each in json.loads(same.stdout)["findings"] if each["level"] == "fault"]
    assert fault["part"] == "teacher: lead"
