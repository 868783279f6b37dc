import math
import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from tapir_core.reporting import plots
from tapir_core.reporting.page import Section, draw, draw_categories, interval_bars
from tapir_core.reporting.plots import plot_benchmarks
from tapir_core.reporting.tables import accuracy_table
from tapir_core.statistics import Estimate
from tapir_core.summary import summarise
from tapir_core.summary.types import RoundSummary, RunSummary
from tests.run_builder import build_run


def svg_of(plot: Section | None) -> str:
    assert plot is not None
    assert plot.plot is not None
    return plot.plot


def gaps_of(rounds: Sequence[RoundSummary]) -> dict[str, pl.Series]:
    return {f"round {each.number}": each.difficulty["order_gap"] for each in rounds if each.difficulty is not None}


PLOTS: dict[str, Callable[[RunSummary], Section | None]] = {
    "mfd": lambda run: plots.plot_mfd(run.rounds[2:]),
    "shares": lambda run: plots.plot_shares(run.rounds[2:]),
    "accuracy": lambda run: plots.plot_score(run.students, run.metric),
    "task types": plots.plot_score_by_task_type,
    "time": lambda run: plots.plot_time(replace(run, rounds=run.rounds[1:2])),
    "order gap": lambda run: plots.plot_order_gap(gaps_of(run.rounds[2:])),
}
LABELS = {
    "mfd": ["MFD = teacher's score − student's score, points of the judge's scale", "instructions", "δ = "],
    "shares": ["share of the examples, %", "natural", "target", "got in round 1", "got in round 2"],
    "accuracy": ["accuracy, %", "student", "test (80 instructions)", "dev (40 instructions)"],
    "task types": ["accuracy on the test split, %", "backbone", "S_0", "S_2", "Code Debug"],
    "time": ["time of all stages, seconds", "once", "teach"],
    "order gap": ["order gap = MFD teacher first − MFD student first, points", "share of the scored, %"],
}


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    return summarise(build_run(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_one_svg_with_labels_and_units(summary: RunSummary, name: str) -> None:
    svg = svg_of(PLOTS[name](summary))
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.get("aria-label")
    assert root.get("width") is None
    said = " ".join(root.itertext())
    assert [label for label in LABELS[name] if label not in said] == []


@pytest.mark.parametrize("name", PLOTS)
def test_the_same_data_give_the_same_plot(summary: RunSummary, name: str) -> None:
    assert PLOTS[name](summary) == PLOTS[name](summary)


def test_text_takes_the_colour_of_the_page(summary: RunSummary) -> None:
    svg = svg_of(PLOTS["accuracy"](summary))
    assert "currentColor" in svg
    assert "#000000" not in svg
    assert "#010203" not in svg


@pytest.mark.parametrize("text", ["C$^^$", r"\$5 and $6$", "$x$", "<b>&amp;", r"\d{2}", 'a "b" | c', "a\x00b\x1b"])
def test_names_and_categories_are_drawn_as_they_are_written(text: str) -> None:
    rows = pl.DataFrame({"number": [-1, 0], "value": [2.0, 3.0], "low": [1.0, 2.0], "high": [3.0, 4.0]})
    title, figures = f"{text} by category", {text: Estimate(1.0, 0.5, 1.5), f"{text} 2": Estimate(2.0)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        bars, curves = draw_categories(title, text, [(text, "#123456", figures)]), plot_benchmarks([(text, rows)])
    readable = re.sub(r"[\x00\x1b]", "\ufffd", text)
    for svg in (bars, curves):
        assert readable in "".join(ElementTree.fromstring(str(svg)).itertext())
    drawn = ElementTree.fromstring(str(bars))
    assert drawn.get("aria-label") == re.sub(r"[\x00\x1b]", "\ufffd", title)
    assert f"{readable} 2" in "".join(drawn.itertext())


def test_a_plot_that_cannot_be_drawn_says_so_in_its_place_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def fill(_: Any) -> None:
        raise ValueError("Expected: symbol, found '^'")

    root = ElementTree.fromstring(draw("Hostile plot", 2.0, fill))
    assert root.get("aria-label") == "Hostile plot"
    assert "".join(root.itertext()) == "This plot could not be drawn (ValueError); the log says why."
    assert "the plot 'Hostile plot' could not be drawn: ValueError: Expected: symbol, found '^'" in caplog.text


def test_what_has_no_figure_is_not_drawn_and_the_rest_is(summary: RunSummary) -> None:
    *others, last = summary.students
    assert last.scores is not None
    nothing = pl.lit(None, pl.Float64)
    without = replace(last, scores=last.scores.with_columns(value=nothing, low=nothing, high=nothing))
    less, whole = (replace(summary, rounds=(*others, each)) for each in (without, last))
    for plot in (PLOTS["accuracy"], PLOTS["task types"]):
        assert ElementTree.fromstring(svg_of(plot(less))).get("aria-label")
        assert plot(less) != plot(whole)


def test_a_bar_without_a_figure_is_no_bar_of_0() -> None:
    [value], [[below], [above]] = interval_bars([None])
    assert all(map(math.isnan, (value, below, above)))


def test_many_rounds_are_shown_by_the_first_and_the_last_two(summary: RunSummary) -> None:
    many = [replace(summary.rounds[2], number=number) for number in range(1, 8)]
    svg = svg_of(plots.plot_shares(many))
    assert [number for number in range(1, 8) if f"got in round {number}" in svg] == [1, 6, 7]


def test_table_and_plot_by_task_type_compare_the_same_students_where_no_backbone_was_scored(
    summary: RunSummary,
) -> None:
    without = replace(summary, rounds=(*summary.rounds[1:], replace(summary.rounds[-1], number=3)))
    said = svg_of(plots.plot_score_by_task_type(without))
    students = accuracy_table(without).columns[1:-1]
    assert students == ("S_0", "S_1", "S_3")
    assert [name for name in ("backbone", "S_0", "S_1", "S_2", "S_3") if name in said] == [*students]


def test_a_histogram_of_equal_values_can_be_drawn() -> None:
    rows = {"instruction_id": ["a", "b"], "task_type": ["Math"] * 2, "mfd": [2.0, 2.0], "order_gap": [0.0, 0.0]}
    judged = RoundSummary(
        1, difficulty=pl.DataFrame({**rows, "seed": [None, None]}, schema_overrides={"seed": pl.Boolean})
    )
    for plot in (plots.plot_mfd([judged]), plots.plot_order_gap(gaps_of([judged]))):
        assert ElementTree.fromstring(svg_of(plot)) is not None


def test_a_long_run_is_shown_in_hours(summary: RunSummary) -> None:
    slow = [replace(stage, seconds=7200.0) for stage in summary.stages]
    assert "time of all stages, hours" in svg_of(plots.plot_time(replace(summary, stages=tuple(slow))))


def test_matplotlib_is_not_imported_before_a_plot_is_drawn() -> None:
    code = "import sys, tapir_core.reporting.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
