"""Benchmarks of each round in report, run card and summary."""

from pathlib import Path

import polars as pl
import pytest

from tapir_core.config import RunConfig
from tapir_core.errors import TooMuchMissing
from tapir_core.paths import BACKBONE, REPORT
from tapir_core.reporting.benchmark_gains import benchmark_gains_table
from tapir_core.reporting.benchmark_plots import plot_benchmark_categories
from tapir_core.reporting.benchmarks import benchmark_tables, benchmarks_sentence, headline_panels, require_figures
from tapir_core.reporting.look import Look
from tapir_core.reporting.report import score_plots, write_report
from tapir_core.reporting.run_card import plots_card, run_card
from tapir_core.reporting.summary import summarise
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt, plan
from tasks.schedule import history, stop_reason
from tests.benchmark_runs import ALPACA, MT_BENCH
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.shown_plots import read_plots

BENCHMARKS = {"ae": ALPACA, "mt": {**MT_BENCH, "modes": ["single"]}}


def configured(root: Path, **changes: object) -> RunConfig:
    evaluation = {
        "benchmarks": BENCHMARKS,
        "each_round": ["ae", "mt"],
        "decontamination": {"max_rouge_l": 1.0},
    }
    data = {"pool": {"type": "standin", "rows": 240}, "heldout": {"type": "standin", "dev": 10, "test": 10}}
    return make_config(root, data=data, evaluation=evaluation, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    root = tmp_path_factory.mktemp("runs")
    return build_run(root, config=configured(root))


def test_benchmarks_of_each_round_stand_in_the_plan_of_backbone_s_0_and_rounds(run: RunFolder) -> None:
    scored = [(at.number, at.benchmark) for at in plan(run.config) if at.name == "benchmark_scores"]
    assert scored == [(number, name) for number in (BACKBONE, 0, 1, 2) for name in ("ae", "mt")]
    assert summarise(run).done


def test_the_report_draws_them_by_round_and_by_category(run: RunFolder) -> None:
    write_report(run)
    page = run.storage.read_bytes(REPORT).decode()
    assert page.count("<h2>Benchmarks</h2>") == 1
    assert "ae: win rate, % by category" in page
    assert "mt: rating, 1–10 by category" in page
    assert "Judged by standin-judge" in page
    assert "Benchmarks of S_2, with intervals" in page


def test_two_students_are_compared_on_the_same_questions(run: RunFolder) -> None:
    table = benchmark_gains_table(Look(run), [BACKBONE, 0, 1, 2])
    assert table.title == "S_2 against S_0 on the same questions"
    assert [row[0] for row in table.rows] == ["ae", "mt"]
    values = {row[0]: row for row in table.rows}
    scores = {number: run.rows(StageAt("benchmark_scores", number, benchmark="mt")) for number in (0, 2)}
    means = {number: rows.filter(metric="rating", category="all")["value"][0] for number, rows in scores.items()}
    assert float(values["mt"][3]) == pytest.approx(means[2] - means[0], abs=0.01)
    assert 0 < float(values["mt"][6]) <= 1
    write_report(run)
    assert table.title in run.storage.read_bytes(REPORT).decode()
    assert benchmark_gains_table(Look(run), [BACKBONE, 0]).rows == ()


def test_the_card_puts_students_side_by_side_with_the_judge(run: RunFolder) -> None:
    card = run_card(summarise(run))
    assert "| Figure | Category | backbone | S_0 | S_1 | S_2 | n |" in card
    assert "prompt mt_bench_single " in card


def test_a_run_without_benchmarks_says_nothing_of_them(tmp_path: Path) -> None:
    write_report(bare := build_run(tmp_path, until=StageAt("evaluate", 0)))
    assert "Benchmarks</h2>" not in bare.storage.read_bytes(REPORT).decode()
    assert benchmarks_sentence(summarise(bare), [0], []) == ""


def test_no_decision_reads_a_benchmark_or_the_test_split(tmp_path: Path) -> None:
    """Not even where they say the opposite of the dev split."""
    stop = {"min_seeds": 0, "patience": 1, "min_gain": 0.05}
    run = build_run(tmp_path, config=configured(tmp_path, curriculum={"stop": stop}))
    dev = {0: 0.2, 1: 0.6, 2: 0.4}
    for number, score in dev.items():
        heldout = run.rows(StageAt("evaluate", number))
        run.write(StageAt("evaluate", number), heldout.with_columns(value=_said("split", "dev", score, 1 - score)))
        for name in ("ae", "mt"):
            scores = run.rows(at := StageAt("benchmark_scores", number, benchmark=name))
            run.write(at, scores.with_columns(value=pl.lit(1 - score)))
    assert summarise(run).best == 1
    assert [each.dev_score for each in history(run, 2)] == [0.2, 0.6, 0.4]
    assert (stop_reason(run.ref, 1), stop_reason(run.ref, 2) is None) == (None, False)


def _said(column: str, value: str, there: float, elsewhere: float) -> pl.Expr:
    return pl.when(pl.col(column) == value).then(pl.lit(there)).otherwise(pl.lit(elsewhere))


def test_what_is_left_of_a_rounds_benchmarks_is_done_though_the_stop_rule_ends_the_run(tmp_path: Path) -> None:
    stop = configured(tmp_path, curriculum={"stop": {"min_seeds": 0, "patience": 1, "min_gain": 0.9}})
    half = build_run(tmp_path, config=stop, until=StageAt("evaluate", 1))
    summary = summarise(half)
    assert (summary.stopped, summary.next_stage) == (None, StageAt("benchmark_answers", 1, benchmark="ae"))


def test_a_missing_figure_is_named_with_its_student_and_its_reason(run: RunFolder) -> None:
    summary = summarise(run)
    found = summary.round(2)
    lost = pl.when(pl.col("metric") == "rating").then(None).otherwise(pl.col("value"))
    note = pl.when(pl.col("metric") == "rating").then(pl.lit("9 of 40 failed")).otherwise(pl.col("note"))
    object.__setattr__(found, "benchmarks", found.benchmarks.with_columns(value=lost, note=note))
    require_figures(summary, [0, 1], ["ae", "mt"])
    require_figures(summary, [2], ["ae"])
    with pytest.raises(TooMuchMissing, match="S_2, mt: 9 of 40 failed"):
        require_figures(summary, [0, 2], ["ae", "mt"])
    [table] = benchmark_tables(summary, [2], ["mt"])
    assert "no figure" in table.rows[0][2]
    [(label, rows)] = [panel for panel in headline_panels(summary) if panel[0].startswith("mt")]
    assert plot_benchmark_categories(label, rows) == "", "no category has a figure of all students that are shown"


def test_the_plots_have_benchmarks_by_round_and_a_radar_by_category(run: RunFolder) -> None:
    said = read_plots(plots_card(score_plots(summarise(run)).values()))
    assert "ae: win rate, %" in said["Benchmarks"]
    assert "S_2" in said["Benchmarks"]
    radar = said["mt: rating, 1–10"]
    for label in ("writing", "reasoning", "backbone", "S_2"):
        assert label in radar
