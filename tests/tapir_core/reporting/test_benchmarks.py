"""Benchmarks of each round in report, run card and summary."""

from html import unescape
from pathlib import Path

import polars as pl
import pytest

from tapir_core.config import RunConfig
from tapir_core.errors import NoFigure
from tapir_core.paths import BACKBONE, REPORT
from tapir_core.reporting.benchmarks import (
    benchmark_gains_table,
    benchmark_tables,
    benchmarks_sentence,
    figures_tables,
)
from tapir_core.reporting.page import render_markdown
from tapir_core.reporting.plots import score_plots
from tapir_core.reporting.report import render_report, run_card, write_report
from tapir_core.run_folder import RunFolder
from tapir_core.run_state import history, stop_reason
from tapir_core.stages import Compared, StageAt, plan
from tapir_core.summary import RunReader, require_figures, summarise
from tapir_core.summary.formats import student_name
from tapir_core.summary.types import RunSummary
from tests.benchmark_runs import ALPACA, MT_BENCH
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.shown_plots import read_plots

BENCHMARKS = {"ae": ALPACA, "mt": MT_BENCH}


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
    assert summarise(run).next_stage is None


def test_the_report_draws_them_by_round_and_by_category(run: RunFolder) -> None:
    write_report(run)
    page = run.storage.read_bytes(REPORT).decode()
    assert page.count("<h2>Benchmarks</h2>") == 1
    assert "ae: win rate, % by category" in page
    assert "mt: rating, 1–10 by category" in page
    assert "Judged by standin-judge" in page
    assert "Benchmarks of S_2, with intervals" in page


def test_students_are_compared_on_the_same_questions(run: RunFolder) -> None:
    table = benchmark_gains_table(RunReader(run), [BACKBONE, 0, 1, 2], best=1)
    pairs = [("S_2", "S_0"), ("S_1", "S_0"), ("S_1", "backbone")]
    assert [row[:3] for row in table.rows] == [(*pair, name) for name in ("ae", "mt") for pair in pairs]
    scores = {number: run.rows(StageAt("benchmark_scores", number, benchmark="mt")) for number in (-1, 0, 1, 2)}
    means = {number: rows.filter(metric="rating", category="all")["value"][0] for number, rows in scores.items()}
    for row, (after, before) in zip(table.rows[3:], ((2, 0), (1, 0), (1, -1)), strict=True):
        figures = dict(zip(table.columns, row, strict=True))
        assert float(figures["Difference"]) == pytest.approx(means[after] - means[before], abs=0.01)
        low, high = map(float, figures["95 % interval"].split(" to "))
        assert low < float(figures["Difference"]) < high
        assert 0 < float(figures["p"]) <= 1
        assert (figures["n"], figures["Failed"]) == ("20", "0")
    write_report(run)
    assert table.title in run.storage.read_bytes(REPORT).decode()


@pytest.mark.parametrize(
    ("asked", "best", "pairs"),
    [
        ([BACKBONE, 0, 1, 2], 2, [("S_2", "S_0"), ("S_2", "backbone")]),
        ([BACKBONE, 0, 1, 2], 0, [("S_2", "S_0"), ("S_0", "backbone")]),
        ([BACKBONE, 0, 1, 2], None, [("S_2", "S_0"), ("S_2", "backbone")]),
        ([0, 1], 2, [("S_1", "S_0")]),
        ([BACKBONE, 0], 2, [("S_0", "backbone")]),
        ([BACKBONE], None, []),
        ([1], 1, []),
    ],
)
def test_who_is_compared_follows_from_who_was_asked_and_who_is_best(
    run: RunFolder, asked: list[int], best: int | None, pairs: list[tuple[str, str]]
) -> None:
    rows = benchmark_gains_table(RunReader(run), asked, best).rows
    assert [row[:2] for row in rows if row[2] == "ae"] == pairs


def test_students_under_different_judges_are_not_compared(tmp_path: Path) -> None:
    """A difference between them would be one between judges too."""
    at = StageAt("benchmark_scores", 1, benchmark="ae")
    run = build_run(tmp_path, config=configured(tmp_path), until=at)
    run.write(at, run.rows(at).with_columns(judge=pl.lit("a new judge")))
    rows = benchmark_gains_table(RunReader(run), [BACKBONE, 0, 1], best=0).rows
    said = {row[:2]: row[4:6] for row in rows if row[2] == "ae"}
    assert said["S_1", "S_0"] == ("not compared: another judge", "–")
    assert said["S_0", "backbone"][0] == ""


def test_the_card_puts_students_side_by_side_with_the_judge(run: RunFolder) -> None:
    card = run_card(summarise(run), RunReader(run))
    assert "| Figure | Category | backbone | S_0 | S_1 | S_2 | n |" in card
    assert "prompt mt_bench_single " in card


@pytest.mark.parametrize("who", [["one", "other"], [2, "one", "other"]], ids=["files alone", "beside a student"])
def test_models_of_files_that_were_judged_alike_stand_side_by_side(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, who: list[Compared]
) -> None:
    figures = summarise(run).benchmarks[2]

    def of(each: Compared) -> pl.DataFrame:
        file = f"; outputs: {each}, from a file (SHA-256 of {each})"
        drawn = pl.col("settings").str.replace("; student: [^;]*", file)
        return figures if isinstance(each, int) else figures.with_columns(settings=drawn)

    monkeypatch.setattr(RunSummary, "benchmarks", {each: of(each) for each in who})
    tables = benchmark_tables(summarise(run), who, ["ae", "mt"])
    assert [table.title for table in tables] == ["ae", "mt"]
    assert [table.columns[2:-1] for table in tables] == [tuple(student_name(each) for each in who)] * 2
    assert "outputs: one, from a file" in tables[0].note
    assert "outputs: other, from a file" in tables[0].note


def test_a_students_figures_by_two_judges_stand_in_two_tables(run: RunFolder) -> None:
    figures = summarise(run).benchmarks[2]
    [table] = figures_tables("S_2", figures)
    assert (table.title, {row[0] for row in table.rows}) == ("Benchmarks of S_2", {"ae", "mt"})
    other = pl.when(pl.col("benchmark") == "mt").then(pl.lit("big judge")).otherwise("judge")
    first, second = figures_tables("S_2", figures.with_columns(judge=other))
    assert first.title.startswith("Benchmarks of S_2, judged by standin-judge")
    assert second.title == "Benchmarks of S_2, judged by big judge"
    assert ({row[0] for row in first.rows}, {row[0] for row in second.rows}) == ({"ae"}, {"mt"})
    assert "big judge" not in first.note
    assert "prompt mt_bench_single " in second.note


def test_a_category_that_a_student_lacks_is_named_below_the_bars_with_the_reason(run: RunFolder) -> None:
    summary = summarise(run)
    found = summary.round(2)
    assert found is not None
    categories = found.benchmarks.filter(metric="rating")["category"].unique(maintain_order=True).to_list()
    lost = (pl.col("metric") == "rating") & (pl.col("category") == categories[1])
    gone = (pl.col("metric") == "rating") & (pl.col("category") == categories[2])
    without = found.benchmarks.filter(~gone).with_columns(
        value=pl.when(~lost).then(pl.col("value")), note=pl.when(lost).then(pl.lit("3 of 4 failed")).otherwise("note")
    )
    object.__setattr__(found, "benchmarks", without)
    page = unescape(render_report(summary, RunReader(run), None))
    assert (
        f"Without a figure: {categories[1]} (S_2: 3 of 4 failed); {categories[2]} (S_2: not asked). Judged by " in page
    )
    assert page.count("Without a figure:") == 1, "the other one lacks none"


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
    assert (stop_reason(run, 1), stop_reason(run, 2) is None) == (None, False)


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
    with pytest.raises(NoFigure, match="S_2 on mt: 9 of 40 failed"):
        require_figures(summary, [0, 2], ["ae", "mt"])
    [table] = benchmark_tables(summary, [2], ["mt"])
    assert "no figure" in table.rows[0][2]
    assert "(S_2: 9 of 40 failed)" in unescape(render_report(summary, RunReader(run), None))


def test_the_plots_have_benchmarks_by_round_and_bars_by_category(run: RunFolder) -> None:
    card = render_markdown(score_plots(summarise(run)))
    assert card.count("Judged by standin-judge (") == 2 + 2, "of both benchmarks' curves, and of each one's bars"
    said = read_plots(card)
    assert "ae: win rate, %" in said["Benchmarks"]
    assert "S_2" in said["Benchmarks"]
    bars = said["mt: rating, 1–10 by category"]
    for label in ("writing", "reasoning", "backbone", "S_2"):
        assert label in bars
