"""A baseline that is a student of another run: whose answers they are, what is refused, what is redone."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config
from tapir_core.config.reference import explain
from tapir_core.errors import ConfigError
from tapir_core.evaluation.benchmark import benchmark_of
from tapir_core.paths import RESOLVED_CONFIG
from tapir_core.run_folder import RunFolder, RunRef, stages_to_redo
from tapir_core.stages import StageAt, benchmark_stages
from tasks.input_files import gather_files
from tests.benchmark_runs import ALPACA, MT_BENCH, VICUNA
from tests.run_builder import build_run
from tests.run_config import make_config

FILES = {"ae": ALPACA, "vi": VICUNA}
FIRST = {"run": "first", "round": 0}


def configured(root: Path, name: str, **benchmarks: dict[str, Any]) -> RunConfig:
    return make_config(
        root,
        run={"name": name, "rounds": 1},
        data={"pool": {"type": "standin", "rows": 120}},
        evaluation={
            "benchmarks": benchmarks,
            "each_round": [*benchmarks],
            "decontamination": {"max_rouge_l": 1.0},
        },
    )


def against(baseline: dict[str, Any] = FIRST, *names: str) -> dict[str, dict[str, Any]]:
    return {name: FILES[name] | {"baseline": baseline} for name in names or FILES}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a run whose backbone and S_0 have answered every benchmark."""
    root = tmp_path_factory.mktemp("runs")
    config = configured(root, "first", ae=ALPACA, mt=MT_BENCH, vi=VICUNA)
    build_run("", config=config, until=benchmark_stages("vi", 0)[-1])
    return root


@pytest.fixture(scope="module")
def first(root: Path) -> RunFolder:
    return RunFolder(RunRef(str(root), "first"))


def given(run: RunFolder, name: str, number: int = 0) -> pl.DataFrame:
    return run.rows(StageAt("benchmark_answers", number, benchmark=name)).select("question_id", "turn", "response")


@pytest.mark.parametrize("name", [*FILES])
@pytest.mark.parametrize("number", [-1, 0])
def test_the_baseline_is_what_that_student_answered(root: Path, first: RunFolder, name: str, number: int) -> None:
    config = configured(root, "second", **against({"run": "first", "round": number}, name))
    items = benchmark_of(config, name).items().select("question_id", "turn", response="baseline")
    assert items.equals(given(first, name, number))


def test_a_benchmark_may_have_another_name_there(root: Path, first: RunFolder) -> None:
    settings = VICUNA | {"baseline": {**FIRST, "benchmark": "vi"}}
    items = benchmark_of(configured(root, "second", mine=settings), "mine").items()
    assert items["baseline"].to_list() == given(first, "vi")["response"].to_list()


def test_figures_say_which_student_of_which_configuration_they_are_against(root: Path, first: RunFolder) -> None:
    config = configured(root, "compared", **against())
    run = build_run("", config=config, until=benchmark_stages("vi", 0)[-1], **gather_files(config))
    configuration = first.storage.sha256(RESOLVED_CONFIG)[:12]
    for name in FILES:
        settings = run.rows(StageAt("benchmark_scores", 0, benchmark=name))["settings"].unique().to_list()
        [said] = settings
        told = f"; baseline: S_0 of run first (benchmark {name}, configuration {configuration})"
        assert f"{told}; files (SHA-256): questions " in said


def test_other_answers_of_that_student_redo_the_benchmark_and_nothing_else(root: Path, tmp_path: Path) -> None:
    build_run("", config=configured(tmp_path, "first", vi=VICUNA), until=benchmark_stages("vi", 0)[-1])
    config = configured(tmp_path, "second", **against(FIRST, "vi"))
    run = build_run("", config=config, until=benchmark_stages("vi", 0)[-1], **gather_files(config))
    prompts = {name: each for name, each in run.record.ingredients.items() if name.startswith("prompt:")}
    assert stages_to_redo(run, config, gather_files(config) | prompts) == []
    other = RunFolder(RunRef(str(tmp_path), "first"))
    answers = StageAt("benchmark_answers", 0, benchmark="vi")
    other.write(answers, other.rows(answers).with_columns(response=pl.lit("Answer: something else")))
    redone = {each.at.name for each in stages_to_redo(run, config, gather_files(config) | prompts)}
    assert redone == {"benchmark_items", "benchmark_answers", "benchmark_replies", "benchmark_scores"}


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ({"run": "no-such", "round": 0}, r"evaluation\.benchmarks\.vi\.baseline\.run: there is no run 'no-such'"),
        ({"run": "first", "round": 1}, r"S_1 of run first has not answered .* --benchmark vi --round 1`"),
        ({"run": "first", "round": 0, "benchmark": "x"}, r"run 'first' has no benchmark 'x' .* it has ae, mt, vi"),
        ({"run": "first", "round": 0, "benchmark": "mt"}, r"S_0 of run first answers none of the 20 questions"),
    ],
    ids=["no run", "not answered", "no benchmark", "other questions"],
)
def test_a_student_that_has_not_answered_is_refused_with_what_to_do(
    root: Path, baseline: dict[str, Any], words: str
) -> None:
    config = configured(root, "second", **against(baseline, "vi"))
    with pytest.raises(ConfigError, match=words):
        _ = gather_files(config), benchmark_of(config, "vi").items()


@pytest.mark.parametrize("name", [*FILES])
def test_an_answer_that_the_student_failed_to_give_is_none(tmp_path: Path, name: str) -> None:
    """One answer of a student must not cost a benchmark."""
    run = build_run("", config=configured(tmp_path, "first", **{name: FILES[name]}), until=benchmark_stages(name, 0)[0])
    answers = StageAt("benchmark_answers", 0, benchmark=name)
    run.write(
        answers, run.rows(answers).with_columns(response=pl.when(question_id="3").then(None).otherwise("response"))
    )
    items = benchmark_of(configured(tmp_path, "second", **against(FIRST, name)), name).items()
    assert items.filter(pl.col("baseline").is_null())["question_id"].to_list() == ["3"]


def test_a_run_is_no_baseline_of_itself(root: Path) -> None:
    [problem] = [each for each in check_config(configured(root, "first", **against(FIRST, "vi"))) if "baseline" in each]
    assert problem.startswith('evaluation.benchmarks.vi.baseline.run: value "first": is this run itself')


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ({"round": 2}, r"evaluation\.benchmarks\.vi\.baseline\.run: missing"),
        ({"run": "first"}, r"evaluation\.benchmarks\.vi\.baseline\.round: missing"),
        (
            {"run": "first", "round": -2},
            r"evaluation\.benchmarks\.vi\.baseline\.round: value -2: expected integer ≥ -1",
        ),
        ({"run": "first", "round": 0, "file": "x"}, r"evaluation\.benchmarks\.vi\.baseline\.file: unknown field"),
        (3, r"evaluation\.benchmarks\.vi\.baseline: "),
    ],
)
def test_a_baseline_that_is_written_wrongly_is_named_as_the_user_wrote_it(
    tmp_path: Path, baseline: Any, words: str
) -> None:
    with pytest.raises(ValidationError) as found:
        configured(tmp_path, "second", **against(baseline, "vi"))
    assert re.search(words, "\n".join(explain(found.value)))
