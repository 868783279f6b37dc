"""Benchmarks on a run's students, through flows, tasks, store and the stand-in's judge: figures, failures, biases."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from typer.testing import CliRunner

from flows.cli import app
from flows.distill import distill
from flows.evaluate import evaluate_students
from flows.forms.evaluate import evaluate_from_form
from tapir_core.calls.fakes import FakeProvider
from tapir_core.paths import BACKBONE
from tapir_core.reporting.benchmarks import benchmark_tables
from tapir_core.reporting.summary import summarise
from tapir_core.stages import StageAt, benchmark_stages
from tapir_core.standin.families import recognise
from tapir_core.standin.running import StandinServer
from tasks.runtime import close_all
from tests.benchmark_runs import ALPACA, MT_BENCH, QUESTIONS, VICUNA, Student, figures, judge, make_run

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def student() -> Iterator[FakeProvider]:
    with FakeProvider(Student()) as provider:
        yield provider


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def test_alpaca_eval_is_asked_end_to_end_and_once(tmp_path: Path, backbone: Path, student: FakeProvider) -> None:
    with StandinServer(noise=0.2) as server:
        run = make_run(tmp_path, backbone, student, ae={**ALPACA, "judge": judge(server)})
        evaluate_students(run.ref, [0], ["ae"])
        found = figures(run, "ae")
        assert found["win_rate"]["n"] == QUESTIONS
        assert found["win_rate"]["n_failed"] == 0
        assert found["win_rate"]["value"] > 50, "the student is right, the baseline often is not"
        assert found["win_rate"]["note"] == "by log-probabilities"
        assert found["win_rate"]["low"] < found["win_rate"]["value"] < found["win_rate"]["high"]
        assert found["length_controlled_minimal"]["value"] is not None
        assert {row["judge"] for row in found.values()} == {"standin-judge (i)"}
        assert {row["prompt_version"].split()[0] for row in found.values()} == {"alpaca_eval"}
        assert "5 log-probabilities" in found["win_rate"]["settings"]
        categories = run.rows(StageAt("benchmark_scores", 0, benchmark="ae"))["category"].unique().sort().to_list()
        assert categories == ["all", "facts", "reckoning", "words"]

        paid, asked = server.stats()["requests"], len(student.calls)
        evaluate_students(run.ref, [0], ["ae"])
        assert (server.stats()["requests"], len(student.calls)) == (paid, asked), "the figures stand"
        for at in benchmark_stages("ae", 0):
            run.storage.remove(at.folder)
        evaluate_students(run.ref, [0], ["ae"])
        assert (server.stats()["requests"], len(student.calls)) == (paid, asked), "the store has every answer"
        assert figures(run, "ae") == found, "log-probabilities included"


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
    assert f"{found['n_failed']} failed" in fine.stdout


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


def test_the_judge_of_the_run_judges_where_a_benchmark_names_none(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    run = make_run(tmp_path, backbone, student, ae=ALPACA)
    evaluate_students(run.ref, [0], ["ae"])
    assert figures(run, "ae")["win_rate"]["judge"].startswith("standin-judge (standin-")


def test_what_is_asked_for_and_cannot_be_is_refused_before_anybody_is_asked(
    tmp_path: Path, backbone: Path, student: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, backbone, student, apart={"questions": ALPACA["questions"]}, ae=ALPACA)
    refused = CliRunner().invoke(app, ["evaluate", f"{run.ref.root}/asked", "--benchmark", "apart"])
    assert "has no such benchmark that can be asked; it has ae" in str(refused.exception)
    both = CliRunner().invoke(app, ["evaluate", "--annotations", "x", "--benchmark", "ae"])
    assert "a benchmark is asked of the students of a RUN" in str(both.exception)
    assert student.calls == []


def test_the_form_asks_benchmarks_and_says_their_headlines(
    tmp_path: Path, backbone: Path, student: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, backbone, student, ae=ALPACA)
    monkeypatch.setenv("TAPIR_ROOT", run.ref.root)
    state = evaluate_from_form("asked", "0", "ae", return_state=True)
    assert state.is_completed(), state.message
    assert "S_0 ae win rate, % " in state.message


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


def test_mt_bench_is_asked_in_two_turns_at_its_temperatures_with_the_students_own_first_answer(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    with StandinServer(noise=0.2) as server:
        run = make_run(tmp_path, backbone, student, mt={**MT_BENCH, "judge": judge(server)})
        evaluate_students(run.ref, [0], ["mt"])
    asked = [call for call in student.calls if call.body["max_tokens"] == 1024]
    assert len(asked) == 2 * QUESTIONS
    items = {row["question"]: row for row in run.rows(StageAt("benchmark_items", benchmark="mt")).to_dicts()}
    temperatures = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
    for call in asked:
        item = items[call.prompt]
        assert call.body["temperature"] == temperatures.get(item["category"], 0.0)
        said = [message["content"] for message in call.body["messages"][:-1]]
        first = next(
            text for text, row in items.items() if (row["question_id"], row["turn"]) == (item["question_id"], 1)
        )
        problem = recognise(first)
        assert problem is not None
        assert said == ([first, problem.plain] if item["turn"] == 2 else [])
    found = figures(run, "mt")
    assert found["rating"]["n"] == 2 * QUESTIONS
    assert found["rating"]["value"] > 8
    assert {"rating_turn_1", "rating_turn_2", "pair_win_rate", "pair_position_gap"} <= set(found)
    assert found["pair_win_rate_adjusted"]["value"] > 60
    scores = run.rows(StageAt("benchmark_scores", 0, benchmark="mt"))
    assert scores.filter(metric="rating")["category"].to_list() == [
        "all",
        "writing",
        "roleplay",
        "reasoning",
        "math",
        "coding",
        "extraction",
        "stem",
        "humanities",
    ]
    replies = run.rows(StageAt("benchmark_replies", 0, benchmark="mt"))
    assert replies.height == 2 * QUESTIONS * 3


def test_judges_that_prefer_the_first_answer_come_to_half_in_both_orders_and_are_flagged(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    with StandinServer(prefers="first") as server:
        benchmarks = {"mt": {**MT_BENCH, "modes": ["pairwise"]}, "vi": VICUNA}
        run = make_run(
            tmp_path, backbone, student, **{name: {**each, "judge": judge(server)} for name, each in benchmarks.items()}
        )
        evaluate_students(run.ref, [0], ["mt", "vi"])
    pairs, reviews = figures(run, "mt"), figures(run, "vi")
    for figure in (pairs["pair_win_rate_adjusted"], reviews["review_win_rate_adjusted"]):
        assert figure["low"] <= 50 <= figure["high"]
    assert reviews["relative_quality"]["low"] <= 100 <= reviews["relative_quality"]["high"]
    for figure in (pairs["pair_position_gap"], reviews["review_position_gap"]):
        assert figure["value"] > 0
        assert figure["note"].startswith("position bias: favours the answer shown first")


def test_vicuna_is_reviewed_by_category_mathematics_included(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    with StandinServer(noise=0.2) as server:
        run = make_run(tmp_path, backbone, student, vi={**VICUNA, "judge": judge(server)})
        evaluate_students(run.ref, [0], ["vi"])
    found = figures(run, "vi")
    assert found["relative_quality"]["n"] == QUESTIONS
    assert found["relative_quality"]["n_failed"] == 0
    assert found["relative_quality"]["value"] > 100
    categories = run.rows(StageAt("benchmark_scores", 0, benchmark="vi"))["category"].unique().to_list()
    assert {"all", "math", "coding", "generic"} <= set(categories)


def test_benchmarks_of_each_round_are_asked_as_part_of_the_run(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    run = make_run(tmp_path, backbone, student, each_round=["ae"], ae=ALPACA)
    for number in (BACKBONE, 2):
        for at in benchmark_stages("ae", number):
            run.storage.remove(at.folder)
    assert not summarise(run).done
    distill(run.ref)
    assert summarise(run).done
    assert len(student.calls) == 2 * QUESTIONS, "the held-out answers stand"
    with get_client(sync_client=True) as client:
        like = ArtifactFilter(key=ArtifactFilterKey(like_="asked-%benchmark%"))
        keys = {str(each.key) for each in client.read_artifacts(artifact_filter=like)}
    assert {"asked-benchmark-ae", "asked-round-2-benchmarks"} <= keys


def test_a_student_of_another_run_is_the_baseline_and_an_equal_one_draws(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    with StandinServer() as server:
        settings = {**ALPACA, "judge": judge(server)}
        first = make_run(tmp_path, backbone, student, name="first", ae=settings)
        evaluate_students(first.ref, [0], ["ae"])
        paid = server.stats()["requests"]
        against = settings | {"baseline": {"run": "first", "round": 0}}
        second = make_run(tmp_path, backbone, student, name="second", ae=against)
        evaluate_students(second.ref, [0, 1], ["ae"])
        assert server.stats()["requests"] == paid, "equal outputs are a draw that nobody is asked about"
    for number in (0, 1):
        found = figures(second, "ae", number)["win_rate"]
        assert (found["value"], found["n"], found["n_failed"]) == (50, QUESTIONS, 0)
        assert "baseline: S_0 of run first (benchmark ae, configuration " in found["settings"]
