"""Benchmarks asked of a run's students, through flows, tasks, store and the stand-in's judge: what is asked, once."""

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from typer.testing import CliRunner

from flows.cli import app
from flows.distill import distill, evaluate_students
from flows.forms import evaluate_from_form
from tapir_core.paths import BACKBONE
from tapir_core.stages import StageAt, benchmark_stages
from tapir_core.standin.families import recognise
from tapir_core.summary import summarise
from tests.benchmark_runs import ALPACA, MT_BENCH, QUESTIONS, VICUNA, figures, judge, make_run
from tests.doubles.provider import FakeProvider
from tests.doubles.standin import StandinServer

pytestmark = pytest.mark.usefixtures("prefect_server")


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
        settings = found["win_rate"]["settings"]
        assert "5 log-probabilities" in settings
        files = {name: run.record.ingredients[f"file:{name}:ae"][:12] for name in ("questions", "baseline")}
        assert settings.endswith(f"; files (SHA-256): questions {files['questions']}, baseline {files['baseline']}")
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
    assert "Judged by standin-judge (" in state.message, "no figure without its judge"
    assert "; prompt alpaca_eval " in state.message


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
    assert set(found) == {"rating", "rating_turn_1", "rating_turn_2"}
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
    assert replies.height == 2 * QUESTIONS


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
    assert ", both orders; student: " in found["relative_quality"]["settings"]
    categories = run.rows(StageAt("benchmark_scores", 0, benchmark="vi"))["category"].unique().to_list()
    assert {"all", "math", "coding", "generic"} <= set(categories)


def test_benchmarks_of_each_round_are_asked_as_part_of_the_run(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    run = make_run(tmp_path, backbone, student, each_round=["ae"], ae=ALPACA)
    for number in (BACKBONE, 2):
        for at in benchmark_stages("ae", number):
            run.storage.remove(at.folder)
    assert summarise(run).next_stage is not None
    distill(run.ref)
    assert summarise(run).next_stage is None
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
