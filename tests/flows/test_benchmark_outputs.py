"""Models whose outputs to a benchmark are files: judged as students are, beside them, and nobody is asked to answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.distill import evaluate_students
from flows.forms import evaluate_from_form
from tapir_core.errors import ConfigError, RunChanged
from tapir_core.paths import REPORT
from tapir_core.reporting.benchmarks import benchmark_states_tables, benchmark_tables
from tapir_core.reporting.report import write_report
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.run_state import find_students
from tapir_core.stages import benchmark_stages
from tapir_core.standin.families import recognise
from tapir_core.summary import RunReader, summarise
from tasks.input_files import gather_ingredients
from tests.benchmark_runs import ALPACA, MT_BENCH, QUESTIONS, VICUNA, judge, make_run
from tests.doubles.provider import FakeProvider
from tests.doubles.standin import StandinServer

pytestmark = pytest.mark.usefixtures("prefect_server")


def said(question: str) -> str:
    """What the student of these tests says, too."""
    problem = recognise(question)
    assert problem is not None
    return problem.plain


def outputs_file(folder: Path, settings: dict[str, Any], *, answered: int = QUESTIONS) -> str:
    """Answers in the benchmark's published form, to its first questions."""
    if settings["type"] == "alpaca_eval":
        asked = [row["instruction"] for row in json.loads(Path(settings["questions"]).read_text())]
        rows = [{"instruction": text, "output": said(text), "generator": "gpt"} for text in asked]
        file = folder / "model_outputs.json"
        file.write_text(json.dumps(rows[:answered]))
        return str(file)
    rows = []
    for line in Path(settings["questions"]).read_text().splitlines():
        question = json.loads(line)
        turns = [said(text) for text in question["turns"]]
        rows.append({"question_id": question["question_id"], "model_id": "gpt", "choices": [{"turns": turns}]})
    file = folder / f"{settings['type']}.jsonl"
    file.write_text("\n".join(map(json.dumps, rows[:answered])))
    return str(file)


def figures(run: RunFolder, name: str, who: int | str) -> dict[str, dict[str, Any]]:
    rows = run.rows(benchmark_stages(name, who)[-1]).filter(category="all")
    return {row["metric"]: row for row in rows.iter_rows(named=True)}


def evaluate(run: RunFolder, *options: str) -> Any:
    return CliRunner().invoke(app, ["evaluate", f"{run.ref.root}/asked", *options], env={"COLUMNS": "200"})


@pytest.mark.parametrize("settings", [ALPACA, MT_BENCH, VICUNA], ids=["ae", "mt", "vi"])
def test_a_file_with_a_students_answers_has_the_students_figures_and_nothing_is_paid_for_it(
    tmp_path: Path, backbone: Path, student: FakeProvider, settings: dict[str, Any]
) -> None:
    with StandinServer(noise=0.2) as server:
        of_file = {"outputs": {"gpt": outputs_file(tmp_path, settings)}, "judge": judge(server)}
        run = make_run(tmp_path, backbone, student, it={**settings, **of_file})
        evaluate_students(run.ref, [0], ["it"])
        paid, asked = server.stats()["requests"], len(student.calls)
        evaluate_students(run.ref, find_students(run, "outputs", ["it"]), ["it"])
        assert (server.stats()["requests"], len(student.calls)) == (paid, asked)
    of_student, of_model = figures(run, "it", 0), figures(run, "it", "gpt")
    for row in of_model.values():
        assert "; outputs: gpt, from a file (SHA-256 " in row.pop("settings")
    for row in of_student.values():
        assert "student: " in row.pop("settings")
    assert of_model == of_student
    [table] = benchmark_tables(summarise(run), [0, "gpt"], ["it"])
    assert table.columns == ("Figure", "Category", "S_0", "gpt", "n")


def test_outputs_are_judged_without_a_student_once_and_stand_in_status_and_report(
    tmp_path: Path, backbone: Path, student: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandinServer(noise=0.2) as server:
        file = outputs_file(tmp_path, ALPACA)
        run = make_run(tmp_path, backbone, student, ae={**ALPACA, "outputs": {"gpt": file}, "judge": judge(server)})
        assert find_students(run, "all", ["ae"])[-1] == "gpt"
        evaluate_students(run.ref, ["gpt"], ["ae"])
        paid, found = server.stats()["requests"], figures(run, "ae", "gpt")
        assert found["win_rate"]["n"] == QUESTIONS
        assert found["win_rate"]["value"] > 50
        for at in benchmark_stages("ae", "gpt"):
            run.storage.remove(at.folder)
        monkeypatch.setenv("TAPIR_ROOT", run.ref.root)
        state = evaluate_from_form("asked", "outputs", "ae", return_state=True)
        assert state.is_completed(), state.message
        assert "gpt ae win rate, % " in state.message
        assert server.stats()["requests"] == paid, "the store has every judgment"
    assert figures(run, "ae", "gpt") == found
    assert student.calls == []
    [states] = benchmark_states_tables(RunReader(run))
    assert states.title == "Benchmark ae"
    assert [row[:3] for row in states.rows] == [("gpt", "later", "done")]
    assert {stage.name: stage.rows for stage in summarise(run).stages}["benchmark_replies"] == QUESTIONS
    write_report(run)
    assert "Benchmarks of gpt, with intervals" in run.storage.read_bytes(REPORT).decode()


def test_questions_that_a_file_lacks_and_judgments_that_fail_count_as_failed(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    with StandinServer(faults="filter=0.1,429=0.1,500=0.1,retry_after_seconds=0") as server:
        file = outputs_file(tmp_path, VICUNA, answered=QUESTIONS - 3)
        of_file = {**VICUNA, "outputs": {"gpt": file}, "judge": judge(server)}
        strict, lenient = ({**of_file, "max_failed_share": share} for share in (0.1, 0.9))
        run = make_run(tmp_path, backbone, student, strict=strict, lenient=lenient)
        evaluate_students(run.ref, ["gpt"], ["strict", "lenient"])
    found = figures(run, "lenient", "gpt")["relative_quality"]
    assert 3 < found["n_failed"] < QUESTIONS
    assert found["n"] + found["n_failed"] == QUESTIONS
    assert found["value"] is not None
    reasons = run.rows(benchmark_stages("lenient", "gpt")[1]).filter(status="failed")["reason"].to_list()
    assert reasons.count("there is no answer") == 3 * 2
    given = run.manifest(benchmark_stages("lenient", "gpt")[0])
    assert given is not None
    assert (given.counts["given"], given.counts["not given"]) == (QUESTIONS - 3, 3)
    asked = evaluate(run, "--round", "outputs", "--benchmark", "strict")
    assert asked.exception.exit_code == 4
    assert "no random sample: gpt on strict: " in str(asked.exception)
    assert "no figure" in asked.stdout
    fine = evaluate(run, "--round", "outputs", "--benchmark", "lenient")
    assert fine.exit_code == 0, fine.output
    assert f"({found['n_failed']}" in fine.stdout


def test_a_file_of_another_benchmark_is_refused_before_anybody_is_asked(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    with StandinServer() as server:
        outputs = {"gpt": outputs_file(tmp_path, MT_BENCH), "other": outputs_file(tmp_path, ALPACA)}
        run = make_run(tmp_path, backbone, student, mt={**MT_BENCH, "outputs": outputs, "judge": judge(server)})
        with pytest.raises(ConfigError, match=r"benchmarks\.mt\.outputs\.other: "):
            evaluate_students(run.ref, [0, "gpt", "other"], ["mt"])
        assert (server.stats()["requests"], len(student.calls)) == (0, 0)


def test_outputs_without_a_file_are_refused_with_the_benchmarks_that_have_one(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    run = make_run(
        tmp_path, backbone, student, ae={**ALPACA, "outputs": {"gpt": outputs_file(tmp_path, ALPACA)}}, vi=VICUNA
    )
    for options in (["--benchmark", "vi"], []):
        refused = evaluate(run, "--round", "outputs", *options)
        assert "those of run 'asked' that have are ae" in str(refused.exception)


def test_a_new_file_redoes_nothing_and_an_edited_one_is_refused(
    tmp_path: Path, backbone: Path, student: FakeProvider
) -> None:
    file = outputs_file(tmp_path, ALPACA)
    run = make_run(tmp_path, backbone, student, ae=ALPACA)
    evaluate_students(run.ref, [0], ["ae"])
    with_outputs = run.config.model_dump(mode="json")
    with_outputs["evaluation"]["benchmarks"]["ae"]["outputs"] = {"gpt": file}
    config = type(run.config).model_validate(with_outputs)
    run = open_run(config, gather_ingredients(config))
    assert run.holds(benchmark_stages("ae", 0)[-1]) is not None
    evaluate_students(run.ref, ["gpt"], ["ae"])
    Path(file).write_text(json.dumps([{"instruction": "3 + 4 = ?", "output": "7"}]))
    with pytest.raises(RunChanged, match=r"benchmark_answers \(gpt, ae\): 20 rows"):
        open_run(config, gather_ingredients(config))
    run.storage.remove(benchmark_stages("ae", "gpt")[0].folder)
    with pytest.raises(RunChanged, match=r"benchmarks\.ae\.outputs\.gpt: .* is not the file"):
        evaluate_students(run.ref, ["gpt"], ["ae"])
