import base64
import re
from dataclasses import replace

import pytest
from markupsafe import Markup

from tapir_core.reporting.figure import draw
from tapir_core.reporting.page import Plot
from tapir_core.reporting.report import score_plots
from tapir_core.reporting.run_card import markdown_table, plots_card, run_card
from tapir_core.reporting.summary import summarise
from tapir_core.reporting.tables import Table
from tapir_core.reporting.types import RunSummary
from tapir_core.stages import StageAt
from tests.run_builder import build_run
from tests.shown_plots import read_plots


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    return summarise(build_run(tmp_path_factory.mktemp("whole")))


def test_the_run_card_says_what_the_run_is_how_it_went_and_where_the_report_is(summary: RunSummary) -> None:
    card = run_card(summary)
    assert card.startswith("# example\n")
    assert "taught by the stand-in" in card
    assert "Done, 2 of 2 rounds trained." in card
    assert "Test accuracy from S_0 to S_2" in card
    assert "report.html" in card
    assert "tapir up" in card
    assert re.findall(r"^## (.*)$", card, re.M)[:2] == ["Rounds", "Accuracy by task type (test)"]


def test_where_there_are_pages_the_card_links_to_them_and_says_how_the_report_opens(summary: RunSummary) -> None:
    card = run_card(summary, {"round 1": {"mfd": "/artifacts/key/a", "judge": "/artifacts/key/b"}})
    assert card.endswith("\n\n- round 1: [mfd](/artifacts/key/a) · [judge](/artifacts/key/b)\n")
    assert f"Report: `file://{summary.root}/example/report.html`." in card
    assert "tapir up" not in card
    remote = replace(summary, root="s3://bucket/runs")
    assert "Report: `s3://bucket/runs/example/report.html`. `tapir move example runs --root s3://bucket/runs` " in (
        run_card(remote)
    )


def test_a_run_that_has_hardly_begun_has_a_card(tmp_path) -> None:
    card = run_card(summarise(build_run(tmp_path, until=StageAt("pool"))))
    assert "Next stage: label." in card
    assert "Rounds" not in card


def test_plots_are_images_of_their_own_with_their_captions(summary: RunSummary) -> None:
    card = plots_card(score_plots(summary).values())
    assert re.findall(r"^## (.*)$", card, re.M) == ["Accuracy by round", "Accuracy by task type"]
    assert "Bars are 95 % intervals." in card
    said = read_plots(card)
    assert [*said] == ["Accuracy by round", "Accuracy by task type"]
    for label in ("accuracy, %", "test (80 instructions)", "backbone", "S_2"):
        assert label in said["Accuracy by round"]
    assert "Code Debug" in said["Accuracy by task type"]


def test_an_image_of_a_plot_takes_no_colour_from_the_page() -> None:
    [encoded] = re.findall(r"base64,([^)]+)", plots_card([Plot("t", Markup(draw("t", 1, lambda _: None)), "c")]))
    svg = base64.b64decode(encoded).decode()
    assert svg.startswith('<svg style="color: #1f2328; background: #fff" role="img" aria-label="t"')


def test_where_nobody_was_evaluated_there_are_no_plots(tmp_path) -> None:
    early = summarise(build_run(tmp_path, until=StageAt("teach")))
    assert plots_card(score_plots(early).values()) == ""


def test_a_bar_in_a_cell_does_not_break_the_table() -> None:
    lines = markdown_table(Table("t", ("a|b", "n"), (("x|y", "1"),))).splitlines()
    assert lines == ["| a\\|b | n |", "| :-- | --: |", "| x\\|y | 1 |"]
