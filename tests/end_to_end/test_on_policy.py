"""An on-policy round on real vLLM and DeepSpeed: rollouts, scores by a teacher that the run serves, a training."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from flows.distill import distill
from tapir_core.calls import AnswerStore, store_url
from tapir_core.calls.types import Spend
from tapir_core.errors import EngineError
from tapir_core.paths import attempt_folder
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.engines.training.launch import newest_save
from tasks.runtime import close_all
from tests.harness.processes import kill, left_over
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.waiting import wait_until

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
    yield lay_run(tmp_path, [surer(tiny_students[0], tmp_path / "student"), tiny_students[1]])
    close_all()


def lay_run(tmp_path: Path, models: list[Path], examples: int = 12, concurrency: int = 8, batch: int = 8) -> RunFolder:
    """An on-policy round up to its mixture; of the two models the first is the student."""
    student, teacher = models
    rounds = {
        "default": {
            "examples": examples,
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
            "engine": {**SERVED, "concurrency": concurrency},
            "sampling": {"max_tokens": 24},
        },
        rounds=rounds,
        training={"precision": "fp32", "batch_size": batch, "micro_batch_size": batch // 2, "save_minutes": 1e-6},
        calls={"rows_per_shard": 8, "concurrency": concurrency},
    )
    return build_run(tmp_path, until=StageAt("mix", 1), config=config, student=student)


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
    tokenizer = AutoTokenizer.from_pretrained(run.config.student.backbone)
    written_again = [
        tokenizer(tokenizer.decode(ids), add_special_tokens=False)["input_ids"] for ids in drawn["token_ids"]
    ]
    assert written_again != drawn["token_ids"].to_list(), "ids that no text gives back went all the way"
    gap = scored["log_probs"].explode() - drawn["log_probs"].explode()
    assert abs(gap.mean()) > 0.01, "another model scores otherwise"
    assert told["loss_curve"][-1]["loss"] < told["loss_curve"][0]["loss"] + 1.0
    first = run.rows(StageAt("rollout", 1))
    run.storage.remove("round_01/rollout_scores/manifest.json")
    run.storage.remove("round_01/rollouts/manifest.json")
    distill(run.ref, until="score")
    assert run.rows(StageAt("rollout", 1)).equals(first), "what was drawn and stored is drawn again"


def test_a_teacher_that_finds_the_answers_less_likely_than_the_student_does_ends_the_run(
    tmp_path: Path, tiny_students: list[Path]
) -> None:
    run = lay_run(tmp_path, [tiny_students[0], surer(tiny_students[1], tmp_path / "teacher")])
    with pytest.raises(EngineError, match=r"score \(round 1\), teacher: lead: .* take a better teacher"):
        distill(run.ref, until="score")
    close_all()


DISTIL = """
import sys
from flows.distill import distill
from tapir_core.run_folder import RunRef
distill(RunRef(*sys.argv[1:]), until="train")
"""


def test_ten_kills_in_rollout_score_and_train_compute_nothing_twice(
    tmp_path: Path, tiny_students: list[Path], standing_prefect: Any
) -> None:
    models = [surer(tiny_students[0], tmp_path / "student"), tiny_students[1]]
    run = lay_run(tmp_path, models, examples=60, concurrency=2, batch=2)
    prompts = run.rows(StageAt("mix", 1)).height
    assert prompts > 40
    store, key = AnswerStore(store_url(run.config)), run.record.id

    def sent(role: str) -> int:
        return store.spend_by_role(key).get(role, Spend()).requests

    def saved() -> int:
        at = run.key(StageAt("train", 1))
        folder = tmp_path / "example" / attempt_folder(1, at) / "saves" if at else tmp_path
        with suppress(FileNotFoundError):  # an older save goes when a newer one is complete
            if save := newest_save(folder, world_size=1):
                return save.step
        return 0

    # Of rollouts and scores so many more than before, of saved steps so many in all.
    moments: list[Callable[[int], bool]] = [
        *[lambda before: sent("rollout") >= before + 9] * 4,
        *[lambda before: sent("score") >= before + 9] * 3,
        *(partial(lambda wanted, _: saved() >= wanted, wanted) for wanted in (2, 8, 14)),
    ]
    environment = {**os.environ, "PREFECT_API_URL": standing_prefect.api}
    for number, moment in enumerate(moments):
        before = sent("rollout" if number < 4 else "score")
        with (tmp_path / "driver.log").open("ab") as log:
            driver = subprocess.Popen(
                [sys.executable, "-c", DISTIL, str(tmp_path), "example"],
                stdout=log, stderr=log, start_new_session=True, env=environment,
            )  # fmt: skip
        try:
            wait_until(partial(moment, before), seconds=300, alive=driver, told=(tmp_path / "driver.log").read_text)
        finally:
            left = left_over(kill(driver, whole_tree=number % 2 == 1))
        assert left == []
    distill(run.ref, until="train")
    drawn, scored = run.rows(StageAt("rollout", 1)), run.rows(StageAt("score", 1))
    assert drawn.height == scored.height == prompts
    assert (drawn["token_ids"].list.len() == scored["log_probs"].list.len()).all()
    # What was in flight when it was killed is asked again, and nothing else.
    with closing(sqlite3.connect(tmp_path / ".tapir" / "store.sqlite")) as connection:
        known = dict(connection.execute("SELECT role, count(*) FROM answers GROUP BY role").fetchall())
    assert known["rollout"] == prompts
    # Each start has the student score the first rollouts that it comes to: a kill that waits for scores may meet
    # rollouts too, and there are more words than rollouts.
    lost = sum(sent(role) - known[role] for role in ("rollout", "score"))
    assert lost <= 7 * 2, "more than the two in flight at a kill"
    assert prompts < known["score"] <= sent("score") <= known["score"] + 7 * 2
    told = json.loads(run.storage.read_bytes("round_01/checkpoint/training.json"))
    assert len(told["resumed_from_steps"]) == 3
    assert told["trained_tokens"] == drawn["token_ids"].list.len().sum()
    asked = sent("score")
    run.storage.remove("round_01/rollout_scores/manifest.json")
    distill(run.ref, until="score")
    assert sent("score") == asked, "the checks of the scorer too are asked once"
    store.close()
    close_all()


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
