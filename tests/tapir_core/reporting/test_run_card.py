import re
from dataclasses import replace

import pytest

from tapir_core.reporting.run_card import markdown_table, round_card, run_card
from tapir_core.reporting.summary import summarise
from tapir_core.reporting.tables import Table
from tapir_core.reporting.types import RunSummary
from tapir_core.stages import StageAt
from tests.run_builder import build_run


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


def test_a_round_card_has_stages_histogram_shares_and_scores(summary: RunSummary) -> None:
    titles = re.findall(r"^## (.*)$", round_card(summary, 1), re.M)
    assert titles == ["Stages of round 1", "MFD of round 1", "Task shares of round 1", "Held-out accuracy of S_1"]


def test_a_round_that_has_not_begun_has_no_card(summary: RunSummary) -> None:
    with pytest.raises(ValueError, match="nothing of round 9 is done"):
        round_card(summary, 9)


def test_a_bar_in_a_cell_does_not_break_the_table() -> None:
    lines = markdown_table(Table("t", ("a|b", "n"), (("x|y", "1"),))).splitlines()
    assert lines == ["| a\\|b | n |", "| :-- | --: |", "| x\\|y | 1 |"]
