import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from tapir_core.reporting.judge_report import (
    JudgeRound,
    plot_length,
    plot_unscored,
    summarise_judge,
)
from tapir_core.reporting.page import Section
from tapir_core.reporting.plots import plot_order_gap
from tapir_core.stages import StageAt
from tests.run_builder import build_run


def svg_of(plot: Section | None) -> str:
    assert plot is not None
    assert plot.plot is not None
    return plot.plot


PLOTS: dict[str, Callable[[JudgeRound], str]] = {
    "gap": lambda found: svg_of(plot_order_gap({"round 1": found.whole.pairs["order_gap"]})),
    "length": lambda found: svg_of(plot_length(found.whole.scores)),
    "unscored": lambda found: svg_of(plot_unscored(found.whole.unscored.reasons)),
}
LABELS = {
    "gap": ["order gap = MFD teacher first − MFD student first, points", "share of the scored, %", "round 1, mean "],
    "length": ["mean length of the answers of a group, characters", "mean score, points", "student's answer"],
    "unscored": ["unscored verdicts", "no verdict in the reply"],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> JudgeRound:
    run = build_run(tmp_path_factory.mktemp("judged"), until=StageAt("judge", 1))
    return summarise_judge(run, 1)


def said(svg: str) -> str:
    return " ".join(ElementTree.fromstring(svg).itertext())


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_one_svg_with_labels_and_units(found: JudgeRound, name: str) -> None:
    svg = PLOTS[name](found)
    assert ElementTree.fromstring(svg).get("aria-label")
    assert [label for label in LABELS[name] if label not in said(svg)] == []
    assert "#010203" not in svg


@pytest.mark.parametrize("name", PLOTS)
def test_the_same_data_give_the_same_plot(found: JudgeRound, name: str) -> None:
    assert PLOTS[name](found) == PLOTS[name](found)


@pytest.mark.parametrize("count", [1, 2, 11])
def test_few_instructions_can_be_drawn(found: JudgeRound, count: int) -> None:
    pairs, scores = found.whole.pairs.head(count), found.whole.scores.head(count)
    for plot in (plot_order_gap({"": pairs["order_gap"]}), plot_length(scores)):
        assert ElementTree.fromstring(svg_of(plot)) is not None


def test_nothing_is_drawn_of_nothing(found: JudgeRound) -> None:
    pairs, scores = found.whole.pairs.clear(), found.whole.scores.clear()
    plots = (plot_order_gap({"": pairs["order_gap"]}), plot_length(scores), plot_unscored({}))
    assert not any(plots)


def test_many_reasons_are_shown_by_the_most_frequent_and_the_rest(tmp_path: Path) -> None:
    text = said(svg_of(plot_unscored({f"reason {number:02d}": 20 - number for number in range(12)})))
    assert "reason 07" in text
    assert "reason 08" not in text
    assert "other reasons" in text


@pytest.mark.parametrize(
    "reason", ["$5 and $6 \\frac{", "</svg><script>alert(1)</script>", "理由\x07‮", "x" * 5000, " "]
)
def test_a_hostile_reason_cannot_break_the_plot(reason: str) -> None:
    svg = svg_of(plot_unscored({reason: 3}))
    assert ElementTree.fromstring(svg) is not None
    assert "<script>" not in svg
    assert len(svg) < 20_000
