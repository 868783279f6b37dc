"""What judges of benchmarks do to figures: no log-probabilities, failures, biases, one judge in place of another."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.distill import distill, evaluate_students
from flows.forms import evaluate_from_form
from tapir_core.reporting.benchmarks import benchmark_states_tables, benchmark_tables
from tapir_core.stages import benchmark_stages
from tapir_core.summary import RunReader, summarise
from tests.benchmark_runs import ALPACA, QUESTIONS, VICUNA, figures, judge, make_run
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.doubles.standin import StandinServer

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_without_log_probabilities_choices_are_counted_and_the_figure_says_so(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    with StandinServer(logprobs=False) as server:
        run = make_run(tmp_path, backbone, student, ae={**ALPACA, "judge": judge(server)})
        evaluate_students(run.ref, [0], ["ae"])
    found = figures(run, "ae")
    assert found["win_rate"]["note"] == "by parsed choices"
    assert found["win_rate"]["value"] == found["discrete_win_rate"]["value"]


def test_failures_are_counted_reported_and_above_the_share_no_figure_is_given(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    with StandinServer(faults="filter=0.15,429=0.1,500=0.1,retry_after_seconds=0") as server:
        strict, lenient = ({**ALPACA, "judge": judge(server), "max_failed_share": share} for share in (0.0, 0.5))
        run = make_run(tmp_path, backbone, student, strict=strict, lenient=lenient)
        evaluate_students(run.ref, [0], ["strict", "lenient"])
    found = figures(run, "lenient")["win_rate"]
    assert 0 < found["n_failed"] < QUESTIONS / 2
    assert found["n"] + found["n_failed"] == QUESTIONS
    assert found["value"] is not None
    none = figures(run, "strict")["win_rate"]
    assert none["value"] is None
    assert f"{none['n_failed']} of 20 judgments failed" in none["note"]
    asked = CliRunner().invoke(app, ["evaluate", f"{run.ref.root}/asked", "--round", "0", "--benchmark", "strict"])
    assert asked.exit_code == 1
    assert isinstance(asked.exception, Exception)
    assert asked.exception.exit_code == 4  # type: ignore[attr-defined]  # every error of ours has one
    assert "no figure" in asked.stdout
    fine = CliRunner().invoke(app, ["evaluate", f"{run.ref.root}/asked", "--round", "0", "--benchmark", "lenient"])
    assert fine.exit_code == 0, fine.output
    [table] = benchmark_tables(summarise(run), [0], ["lenient"])
    assert table.rows[0][2].endswith(f", {found['n_failed']} failed")


def test_asking_failed_judgments_again_takes_a_benchmark(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["evaluate", str(tmp_path / "no-run"), "--also", "terminal"])
    assert "--also terminal without --benchmark NAME" in str(refused.exception)


def test_an_annotator_that_prefers_the_first_output_comes_to_half_and_is_flagged(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    with StandinServer(prefers="first") as server:
        run = make_run(tmp_path, backbone, student, ae={**ALPACA, "judge": judge(server)})
        evaluate_students(run.ref, [0], ["ae"])
    found = figures(run, "ae")
    assert found["win_rate"]["low"] < 50 < found["win_rate"]["high"]
    assert found["position_gap"]["note"].startswith("position bias: favours the answer shown first")


def test_an_annotator_that_prefers_the_longer_output_is_controlled_by_length(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    student.script.say = lambda problem: problem.refined + " " + "Indeed. " * (len(problem.instruction) % 7 - 2)
    with StandinServer(prefers="longer") as server:
        run = make_run(tmp_path, backbone, student, ae={**ALPACA, "judge": judge(server)})
        evaluate_students(run.ref, [0], ["ae"])
    found = figures(run, "ae")
    raw, controlled = found["win_rate"]["value"], found["length_controlled_minimal"]["value"]
    assert raw > 70
    assert abs(controlled - 50) < abs(raw - 50) - 10
    assert found["length_controlled_minimal"]["low"] < controlled < found["length_controlled_minimal"]["high"]
    assert found["length_controlled_minimal"]["note"] == "by lengths alone, never beside a published rate"


def test_the_judge_of_the_run_judges_where_a_benchmark_names_none(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    run = make_run(tmp_path, backbone, student, ae=ALPACA)
    evaluate_students(run.ref, [0], ["ae"])
    assert figures(run, "ae")["win_rate"]["judge"].startswith("standin-judge (standin-")


def test_figures_of_different_judges_never_share_a_column(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    run = make_run(tmp_path, backbone, student, ae=ALPACA)
    evaluate_students(run.ref, [0, 1], ["ae"])
    summary = summarise(run)
    [table] = benchmark_tables(summary, [0, 1], ["ae"])
    assert table.columns == ("Figure", "Category", "S_0", "S_1", "n")
    assert "Judged by standin-judge" in table.note
    other = summary.round(1)
    assert other is not None
    assert other.benchmarks is not None
    rejudged = other.benchmarks.with_columns(judge=pl.lit("another judge"))
    object.__setattr__(other, "benchmarks", rejudged)
    first, second = benchmark_tables(summary, [0, 1], ["ae"])
    assert (first.columns[2:3], second.columns[2:3]) == (("S_0",), ("S_1",))
    assert "another judge" in second.note


def test_a_referee_that_prefers_the_first_answer_comes_to_half_in_both_orders_and_is_flagged(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    with StandinServer(prefers="first") as server:
        run = make_run(tmp_path, backbone, student, vi={**VICUNA, "judge": judge(server)})
        evaluate_students(run.ref, [0], ["vi"])
    found = figures(run, "vi")
    assert found["review_win_rate_adjusted"]["low"] <= 50 <= found["review_win_rate_adjusted"]["high"]
    assert found["relative_quality"]["low"] <= 100 <= found["relative_quality"]["high"]
    assert found["review_position_gap"]["value"] > 0
    assert found["review_position_gap"]["note"].startswith("position bias: favours the answer shown first")


def gives_no_logprobs(call: RecordedCall) -> FakeReply:
    """An annotator that refuses whoever asks for log-probabilities."""
    if call.body.get("logprobs"):
        return Status(400, {"error": {"message": "'logprobs' is not permitted for this model"}})
    return Text("m")


def annotator(provider: FakeProvider) -> dict[str, Any]:
    return {"type": "openai", "base_url": provider.base_url, "model": "m", "identity": "i", "api_key_env": ""}


def test_judgments_that_failed_for_good_are_asked_again_and_no_others(
    tmp_path: Path, backbone: Path, student: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    fixed = False

    def refuses_some(call: RecordedCall) -> FakeReply:
        asked.append(call.prompt)
        return Text(None, refusal="No.") if len(asked) % 4 == 0 and not fixed else Text("m")

    with FakeProvider(refuses_some) as provider:
        run = make_run(tmp_path, backbone, student, ae={**ALPACA, "judge": annotator(provider), "top_logprobs": 0})
        command = ["evaluate", f"{run.ref.root}/asked", "--round", "0", "--benchmark", "ae"]
        refused = CliRunner().invoke(app, command)
        monkeypatch.setenv("TAPIR_ROOT", run.ref.root)
        told = evaluate_from_form("asked", "0", "ae", return_state=True)
        assert told.message == str(refused.exception), "without the sentence that Retry goes on: it would not"
        assert (
            f"`tapir evaluate asked --root {run.ref.root} --benchmark ae --also terminal` asks it again" in told.message
        )
        failed = figures(run, "ae")["win_rate"]["n_failed"]
        assert failed == len(asked) // 4 > 0
        fixed, answered = True, len(student.calls)
        asked.clear()
        again = CliRunner().invoke(app, [*command, "--also", "terminal"])
        assert again.exit_code == 0, again.output
        assert len(asked) == failed
        state = evaluate_from_form("asked", "0", "ae", also_terminal=True, return_state=True)
        assert state.is_completed(), state.message
        assert len(asked) == failed, "none is left that failed"
    assert len(student.calls) == answered
    assert figures(run, "ae")["win_rate"]["n"] == QUESTIONS


def test_an_annotator_that_refuses_log_probabilities_is_told_in_its_own_words_with_the_remedy_which_helps(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    with FakeProvider(gives_no_logprobs) as provider:
        refusing, fixed = ({**ALPACA, "judge": annotator(provider), "top_logprobs": each} for each in (5, 0))
        run = make_run(tmp_path, backbone, student, refusing=refusing, fixed=fixed)
        evaluate_students(run.ref, [0], ["refusing", "fixed"])
    found = figures(run, "refusing")["win_rate"]
    assert (found["value"], found["n_failed"] + found["n"]) == (None, QUESTIONS), "equal outputs are a draw"
    said = (
        f"failed: {found['n_failed']} questions: bad_request, \"HTTP 400: 'logprobs' is not permitted for this model\""
    )
    remedy = "set evaluation.benchmarks.refusing.top_logprobs = 0"
    asked = CliRunner().invoke(app, ["evaluate", f"{run.ref.root}/asked", "--round", "0", "--benchmark", "refusing"])
    [state] = [
        row for table in benchmark_states_tables(RunReader(run)) if "refusing" in table.title for row in table.rows
    ]
    for told in (found["note"], str(asked.exception), " ".join(state)):
        assert said in told
        assert remedy in told
    assert (figures(run, "fixed")["win_rate"]["note"], figures(run, "fixed")["win_rate"]["n"]) == (
        "by parsed choices",
        QUESTIONS,
    )


def toml(value: Any) -> str:
    """A value in TOML; what is nothing is left out."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}" = {toml(each)}' for name, each in value.items() if each is not None) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def test_a_run_whose_benchmark_has_no_figure_goes_to_its_end_and_says_so_with_the_code_of_too_much_missing(
    tmp_path: Path, backbone: Path, student: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")  # TOML has no word for nothing, so the file cannot say "none"
    with FakeProvider(gives_no_logprobs) as provider:
        run = make_run(tmp_path, backbone, student, each_round=["ae"], ae={**ALPACA, "judge": annotator(provider)})
        for number in (-1, 0, 1, 2):
            for at in benchmark_stages("ae", number):
                run.storage.remove(at.folder)
        distill(run.ref)
        assert summarise(run).next_stage is None
        config = tmp_path / "asked.toml"
        config.write_text(
            "".join(f"{name} = {toml(each)}\n" for name, each in run.config.model_dump(mode="json").items())
        )
        done = CliRunner().invoke(app, ["run", str(config)])
    assert done.exception.exit_code == 4, done.output  # type: ignore[union-attr]  # every error of ours has one
    assert "no figure, since failures are no random sample: backbone, S_0, S_1, S_2 on ae: " in str(done.exception)
    assert "Report: " in done.stdout
