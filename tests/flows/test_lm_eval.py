"""A benchmark of lm-evaluation-harness on a run's students: asked, marked, stored, resumed; the harness is a fake."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.distill import distill, evaluate_students
from tapir_core.errors import ConfigError, EngineError, MissingPrerequisite
from tapir_core.paths import BACKBONE
from tapir_core.reporting.benchmarks import benchmark_gains_table, benchmark_tables, benchmarks_sentence, figures_tables
from tapir_core.reporting.report import write_report
from tapir_core.reporting.serving import serving_tables
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt, benchmark_stages
from tapir_core.standin.families import recognise
from tapir_core.summary import RunReader, summarise
from tasks.engines.backbone import checkpoint_digest
from tasks.input_files import gather_files
from tasks.runtime import close_all
from tests.doubles.lm_eval import make_fake_harness
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.run_builder import build_run
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")

QUESTIONS = 20


def solve(call: RecordedCall) -> FakeReply:
    """Right on the questions with an even number, two words on the others; held-out instructions are answered, too."""
    name, _, number = call.prompt.rpartition(" ")
    if name == "Which number is this:":
        return Text(number if int(number) % 2 == 0 else f"{number} indeed")
    problem = recognise(call.prompt)
    assert problem is not None
    return Text(problem.plain)


class Student:
    """Answers with a script that a test may change."""

    def __init__(self) -> None:
        self.script = solve

    def __call__(self, call: RecordedCall) -> FakeReply:
        return self.script(call)


@pytest.fixture
def student() -> Iterator[FakeProvider]:
    with FakeProvider(Student()) as provider:
        yield provider


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def make_run(root: Path, backbone: Path, student: FakeProvider, each_round: bool = False, **settings: Any) -> RunFolder:
    """A finished run with the benchmark `ex`, whose student answers at an endpoint."""
    root.mkdir(exist_ok=True)
    questions = root / "questions.jsonl"
    rows = ({"prompt": f"Which number is this: {number}", "answer": str(number)} for number in range(QUESTIONS))
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = {
        "type": "lm_eval",
        "task": "numbers",
        "questions": str(questions),
        "python": str(make_fake_harness(root)),
        **settings,
    }
    engine = {"type": "endpoint", "base_url": student.base_url, "model": "{checkpoint}", "api_key_env": ""}
    config = make_config(
        root,
        run={"name": "asked"},
        data={"pool": {"type": "standin", "rows": 240}, "heldout": {"type": "standin", "dev": 10, "test": 10}},
        student={"backbone": str(backbone), "engine": engine},
        evaluation={"benchmarks": {"ex": benchmark}, "each_round": ["ex"] if each_round else []},
        calls={"shard_retry_seconds": 0.0, "backoff_seconds": 0.01, "max_backoff_seconds": 0.05, "rows_per_shard": 8},
    )
    return build_run(root, config=config, **gather_files(config), backbone=checkpoint_digest(backbone))


def figures(run: RunFolder, number: int = 0) -> dict[str, dict[str, Any]]:
    """Every figure, by metric."""
    rows = run.rows(StageAt("benchmark_scores", number, benchmark="ex"))
    return {row["metric"]: row for row in rows.iter_rows(named=True)}


def test_the_harness_marks_what_the_student_answers_and_nothing_is_asked_twice(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    run = make_run(tmp_path, backbone, student)
    evaluate_students(run.ref, [0], ["ex"])
    found = figures(run)
    assert list(found) == ["exact", "words"]
    assert (found["exact"]["value"], found["exact"]["n"], found["exact"]["n_failed"]) == (50, 20, 0)
    assert found["exact"]["low"] < 50 < found["exact"]["high"]
    assert (found["words"]["value"], found["words"]["n"]) == (pytest.approx(100 * 20 / 30), 20)
    assert found["words"]["note"] == "mean of 30 marks; n counts questions"
    assert {row["judge"] for row in found.values()} == {"lm-evaluation-harness 0.0-fake"}
    # The task would draw answers in another way than the configuration says, and a reader is told.
    assert found["exact"]["prompt_version"] == "numbers 1.0 (its own sampling: temperature 0, 64 tokens)"
    questions = run.record.ingredients["file:questions:ex"][:12]
    said = f"student: temperature 0, top_p 1, 1280 tokens; files (SHA-256): questions {questions}"
    assert found["exact"]["settings"] == said
    manifest = run.manifest(StageAt("benchmark_replies", 0, benchmark="ex"))
    assert manifest is not None
    assert manifest.counts["left out: bleu"] == 1

    asked = len(student.calls)
    evaluate_students(run.ref, [0], ["ex"])
    for at in benchmark_stages("ex", 0):
        run.storage.remove(at.folder)
    evaluate_students(run.ref, [0], ["ex"])
    assert len(student.calls) == asked == QUESTIONS, "the store has every answer"
    assert figures(run) == found


def test_answers_that_failed_are_in_no_figure_and_above_the_share_there_is_none(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    def refuse_some(call: RecordedCall) -> FakeReply:
        if call.prompt in ("Which number is this: 3", "Which number is this: 4"):
            return Status(400, {"error": {"message": "no", "code": "content_filter"}})
        return solve(call)

    student.script.script = refuse_some
    run = make_run(tmp_path, backbone, student, max_failed_share=0.1)
    evaluate_students(run.ref, [0], ["ex"])
    assert {each: (row["n"], row["n_failed"]) for each, row in figures(run).items()} == {
        "exact": (18, 2),
        "words": (18, 2),
    }
    assert figures(run)["exact"]["value"] == 50
    student.script.script = lambda call: Status(400, {"error": {"message": "no", "code": "content_filter"}})
    nothing = make_run(tmp_path / "none", backbone, student)
    evaluate_students(nothing.ref, [0], ["ex"])
    found = figures(nothing)["marks"]
    assert (found["value"], found["n_failed"]) == (None, 20)
    asked = CliRunner().invoke(app, ["evaluate", f"{nothing.ref.root}/asked", "--round", "0", "--benchmark", "ex"])
    assert asked.exception.exit_code == 4  # type: ignore[union-attr]  # every error of ours has one
    assert "20 of 20 questions failed" in str(asked.exception)


def test_figures_stand_in_tables_report_and_gains(tmp_path: Path, backbone: Path, student: FakeProvider) -> None:
    run = make_run(tmp_path, backbone, student)
    evaluate_students(run.ref, [0, 1], ["ex"])
    summary = summarise(run)
    [table] = benchmark_tables(summary, [0, 1], ["ex"])
    assert [row[0] for row in table.rows] == ["exact, %", "words, %"]
    assert "Judged by lm-evaluation-harness 0.0-fake; prompt numbers 1.0" in table.note
    [figures] = figures_tables("S_0", summary.benchmarks[0])
    assert figures.rows[0][:2] == ("ex", "exact, %")
    assert benchmarks_sentence(summary, [0], ["ex"]).startswith("S_0 ex exact, % 50.00 (")
    # One mark a question is what a comparison on the same questions can be made of.
    gains = benchmark_gains_table(RunReader(run), [0, 1], best=None)
    assert [row[:4] for row in gains.rows] == [("S_1", "S_0", "ex", "exact, %")]
    write_report(run)
    assert "ex: exact, %" in run.storage.read_bytes("report.html").decode()


def test_it_is_asked_as_part_of_a_run(tmp_path: Path, backbone: Path, student: FakeProvider) -> None:
    run = make_run(tmp_path, backbone, student, each_round=True)
    assert summarise(run).next_stage is not None
    distill(run.ref)
    assert summarise(run).next_stage is None
    assert figures(run, 2)["exact"]["value"] == figures(run, BACKBONE)["exact"]["value"] == 50
    before_after, cost = serving_tables(RunReader(run), best=2)
    assert before_after.columns == ("", "backbone", "S_2", "teacher", "S_2 less backbone")
    assert before_after.rows[-1] == ("ex: exact, %", "50.0", "50.0", "–", "none changed")
    assert {name: cell for name, cell, _ in cost.rows}["Answers timed"] == str(QUESTIONS), "built ones are not"
    assert "S_2 answered with an endpoint." in cost.note


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"python": "nowhere/python"}, MissingPrerequisite, "nowhere/python is no interpreter; run `make lm-eval-env`"),
        ({"task": "refused"}, ConfigError, "benchmarks.ex: task 'refused': the harness has no such task"),
        ({"task": "broken"}, EngineError, "ended with exit code 1; the last lines of .*\n.*\n.*KeyError: 'answer'"),
    ],
    ids=["no environment", "refused", "failed"],
)
def test_what_the_harness_cannot_do_is_said_before_the_student_is_asked(
    tmp_path: Path, backbone: Path, student: FakeProvider, settings: dict[str, str], error: type[Exception], said: str
) -> None:
    run = make_run(tmp_path, backbone, student, **settings)
    with pytest.raises(error, match=said):
        evaluate_students(run.ref, [0], ["ex"])
    assert student.calls == []
