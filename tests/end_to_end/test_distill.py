"""One run on real vLLM, real DeepSpeed and a real Prefect server, with a tiny student, and what follows from it."""

import json
import logging
import shutil
import sqlite3
from contextlib import closing

import polars as pl

from tapir_core.config import ACCURACY
from tapir_core.paths import BACKBONE, PREFECT_HOME
from tapir_core.stages import StageAt, plan
from tests.harness.processes import REPOSITORY


def engine_traces(project, name):
    """Sizes of the logs that starting an engine or a stand-in would change."""
    logs = project.root / name / "logs"
    return {log.name: log.stat().st_size for log in logs.iterdir() if log.name != "prefect-server.log"}


def test_every_stage_is_whole(project):
    run = project.folder("first")
    assert [str(at) for at in plan(run.config) if run.holds(at) is None] == []


def test_the_output_shows_rounds_report_and_the_way_to_the_ui(project):
    for words in ("label", "S_0", "report.html", "tapir up"):
        assert words in project.output
    assert (project.root / "first" / "report.html").stat().st_size > 20_000


def test_what_matters_of_the_engines_is_in_the_flow_runs_log_and_no_noise(project):
    with closing(sqlite3.connect(project.root / PREFECT_HOME / "prefect.db")) as connection:
        told = connection.execute("SELECT level, message FROM log ORDER BY timestamp").fetchall()
    of_engines = [(level, text) for level, text in told if text.startswith(("student server (", "trainer ("))]
    assert {level for level, _ in of_engines} == {logging.INFO}
    assert len([text for _, text in of_engines if "student.log): ready with " in text]) == 1
    assert len([text for _, text in of_engines if "student.log): has the weights of " in text]) == 3
    assert len([text for _, text in of_engines if ".log): steps: 4, " in text]) == 3
    assert len([text for _, text in told if text.startswith("training ended: 4 steps, ")]) == 3
    assert len(of_engines) < 40


def test_every_instruction_was_judged_in_both_orders_and_an_unread_verdict_is_unscored(project):
    run = project.folder("first")
    for number in (1, 2):
        verdicts = run.rows(StageAt("judge", number))
        assert set(verdicts["order"]) == {"teacher_first", "student_first"}
        assert verdicts["instruction_id"].value_counts()["count"].unique().to_list() == [2]
        assert 0 < verdicts.filter(status="unscored").height < verdicts.height / 4
        unscored = set(verdicts.filter(status="unscored")["instruction_id"])
        difficulty = run.rows(StageAt("difficulty", number))
        assert not unscored & set(difficulty["instruction_id"])
        assert difficulty["orders"].unique().to_list() == [2]


def test_the_pool_grows_by_the_expansion_and_no_instruction_is_trained_on_twice_in_a_round(project):
    run = project.folder("first")
    expansion = run.rows(StageAt("expand", 1))
    assert expansion.height > 0
    assert set(expansion["instruction_id"]) <= set(run.rows(StageAt("answer", 2))["instruction_id"])
    for number in (0, 1, 2):
        assert run.rows(StageAt("mix", number))["instruction_id"].is_unique().all()


def test_no_heldout_instruction_is_in_a_mixture(project):
    run = project.folder("first")
    heldout = set(run.rows(StageAt("heldout"))["instruction_id"])
    trained = pl.concat([run.rows(StageAt("mix", number)) for number in (0, 1, 2)])
    assert not heldout & set(trained["instruction_id"])


def test_training_says_what_it_did_and_warm_starts(project):
    run = project.folder("first")
    for number in (0, 1, 2):
        folder = run.storage.local(StageAt("train", number).folder)
        training = json.loads((folder / "training.json").read_text())
        assert training["steps"] == 4
        assert training["loss"] if "loss" in training else training["loss_curve"]
        assert list(folder.glob("*.safetensors"))
    weights = {run.holds(StageAt("train", number)).digest for number in (0, 1, 2)}
    assert len(weights) == 3


def test_scores_are_there_for_backbone_and_every_round(project):
    run = project.folder("first")
    for number in (BACKBONE, 0, 1, 2):
        scores = run.rows(StageAt("evaluate", number)).filter(category="all", metric=ACCURACY)
        assert set(scores["split"]) == {"dev", "test"}
        assert scores["n"].to_list() == [20, 20]


def test_a_mixture_reads_straight_into_datasets(project, tmp_path):
    folder = project.root / "first" / StageAt("mix", 1).folder
    files = [str(path) for path in folder.glob("part-*.parquet")]
    import datasets  # seconds, which processes that only collect this test need not spend

    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert {message["role"] for message in rows[0]["messages"]} == {"user", "assistant"}


def test_the_same_command_again_starts_no_engine_and_asks_nobody_also_for_what_is_unscored(project, unsteady_judge):
    before = engine_traces(project, "first")
    asked = project.stored("judge"), project.stored("teach"), project.stored("answer"), len(unsteady_judge.calls)
    again = project.run("first", "--set", "calls.concurrency=3", "--set", "calls.max_attempts=2")
    assert engine_traces(project, "first") == before
    assert (*map(project.stored, ("judge", "teach", "answer")), len(unsteady_judge.calls)) == asked
    assert "report.html" in again.stdout


def test_a_deleted_stage_is_made_again_and_nothing_else(project):
    before = engine_traces(project, "first")
    folder, at = project.folder("first"), StageAt("difficulty", 1)
    kept = folder.manifest(at).digest
    folder.storage.remove(at.folder)
    project.run("first")
    assert folder.manifest(at).digest == kept
    assert engine_traces(project, "first") == before


def test_another_backbone_asks_for_no_label_and_no_teacher_answer_again(project, tiny_students):
    asked = project.stored("label"), project.stored("teach")
    project.run("second", "--set", f"student.backbone={tiny_students[1]}", "--until", "teach")
    second = project.folder("second")
    assert second.rows(StageAt("teach")).height == 80
    assert (project.stored("label"), project.stored("teach")) == asked
    assert second.manifest(StageAt("evaluate", BACKBONE)) is None, "nothing after the stage to reach is done"


def test_deleting_one_run_breaks_no_other(project):
    shutil.rmtree(project.root / "second", ignore_errors=True)
    assert "report.html" in project.run("first").stdout


def test_an_edited_judge_prompt_is_refused_and_amended_from_the_judge_on(project, tmp_path):
    prompts = tmp_path / "prompts"
    shipped = REPOSITORY / "tapir_core" / "prompts"
    shutil.copytree(shipped, prompts, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    changed = ("--set", f"run.prompts={prompts}", "--set", "run.rounds=1")
    assert project.run("first", *changed).returncode == 0, "the same words in another folder are the same prompts"
    judge = prompts / "judge.jinja2"
    judge.write_text(judge.read_text().replace("strictly", "very strictly"))
    refused = project.run("first", *changed, check=False)
    assert refused.returncode == 2
    assert "judge (round 1): 160 rows, up to 160 calls" in refused.stderr
    assert "answer (round 1)" not in refused.stderr
    assert "Traceback" not in refused.stderr

    run = project.folder("first")
    before = {at: run.manifest(at) for at in plan(run.config)}
    judged = project.stored("judge")
    project.run("first", *changed, "--amend", "--until", "mix")
    edited = project.folder("first")
    redone = {(at.name, at.round) for at in before if edited.manifest(at) != before[at]}
    assert redone >= {("judge", 1), ("difficulty", 1), ("select", 1), ("mix", 1)}
    assert not redone & {("label", None), ("teach", None), ("train", 0), ("answer", 1), ("evaluate", 0)}
    assert edited.holds(StageAt("train", 1)) is None, "the checkpoint of the old verdicts is not served"
    assert project.stored("judge") == judged + 160

    shutil.copy(shipped / "judge.jinja2", judge)
    assert "judge (round 1)" in project.run("first", *changed, check=False).stderr, "the edit's verdicts are not served"
    project.run("first", *changed, "--amend", "--until", "mix")
    undone = project.folder("first")
    assert [str(at) for at in before if undone.holds(at) is None] == [], "the old checkpoint and scores hold again"
    assert project.stored("judge") == judged + 160, "the old verdicts were in the store"
