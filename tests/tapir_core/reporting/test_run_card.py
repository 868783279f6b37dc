import base64
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tapir_core.reporting.page import Section, Table, draw, markdown_table, markdown_text, render_markdown, section_of
from tapir_core.reporting.plots import score_plots
from tapir_core.reporting.report import run_card
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import RunReader, summarise
from tapir_core.summary.types import RunSummary
from tests.run_builder import build_run, make_config
from tests.shown_plots import read_plots


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def summary(run: RunFolder) -> RunSummary:
    return summarise(run)


@pytest.fixture
def reader(run: RunFolder) -> RunReader:
    return RunReader(run)


def test_the_run_card_says_what_the_run_is_how_it_went_and_where_the_report_is(
    summary: RunSummary, reader: RunReader
) -> None:
    card = run_card(summary, reader)
    assert card.startswith("# example\n")
    assert "taught by the stand-in" in card
    assert "Done, 2 of 2 rounds trained." in card
    assert "Test accuracy from S_0 to S_2" in card
    assert "report.html" in card
    assert "tapir up" in card
    assert re.findall(r"^## (.*)$", card, re.M)[:2] == ["Rounds", "Accuracy by task type (test)"]


def test_where_there_are_pages_the_card_links_to_them_and_says_how_the_report_opens(
    summary: RunSummary, reader: RunReader
) -> None:
    card = run_card(summary, reader, {"round 1": {"mfd": "/artifacts/key/a", "judge": "/artifacts/key/b"}})
    assert card.endswith("\n\n- round 1: [mfd](/artifacts/key/a) · [judge](/artifacts/key/b)\n")
    assert f"Report: `file://{summary.root}/example/report.html`." in card
    assert "tapir up" not in card
    remote = replace(summary, root="s3://bucket/runs")
    assert "Report: `s3://bucket/runs/example/report.html`. `tapir move example runs --root s3://bucket/runs` " in (
        run_card(remote, reader)
    )


def test_a_run_that_has_hardly_begun_has_a_card(tmp_path) -> None:
    run = build_run(tmp_path, until=StageAt("pool"))
    card = run_card(summarise(run), RunReader(run))
    assert "Next stage: label." in card
    assert "Rounds" not in card


def test_plots_are_images_of_their_own_with_their_captions(summary: RunSummary) -> None:
    card = render_markdown(score_plots(summary))
    assert re.findall(r"^## (.*)$", card, re.M) == ["Accuracy by round", "Accuracy by task type"]
    assert "Bars are 95 % intervals." in card
    said = read_plots(card)
    assert [*said] == ["Accuracy by round", "Accuracy by task type"]
    for label in ("accuracy, %", "test (80 instructions)", "backbone", "S_2"):
        assert label in said["Accuracy by round"]
    assert "Code Debug" in said["Accuracy by task type"]


def test_an_image_of_a_plot_takes_no_colour_from_the_page() -> None:
    [encoded] = re.findall(
        r"base64,([^)]+)", render_markdown([Section("t", plot=draw("t", 1, lambda _: None), note="c")])
    )
    svg = base64.b64decode(encoded).decode()
    assert svg.startswith('<svg style="color: #1f2328; background: #fff" role="img" aria-label="t"')


def test_where_nobody_was_evaluated_there_are_no_plots(tmp_path) -> None:
    early = summarise(build_run(tmp_path, until=StageAt("teach")))
    assert render_markdown(score_plots(early)) == ""


MODEL = make_config(
    Path(), **{role: {"endpoint": {"type": "openai", "model": "m", "identity": "i"}} for role in ("teacher", "judge")}
)
HOSTILE = (
    "a|b",
    "a\\|b\\",
    "`rm` ``x``",
    "*bold* **x**",
    "_under_ __x__ snake_case S_0",
    "<script>alert(1)</script>",
    "[click](javascript:x) ![i](y)",
    "# heading #",
    "- item",
    "+ item",
    "12. item",
    "---",
    "~~gone~~",
    "&lt; & $x$",
    "> said",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_data_is_shown_as_it_is_written(summary: RunSummary, reader: RunReader, text: str) -> None:
    table = Table(text, (text, "n"), ((text, "1"),), note=text)
    shown = read_markdown(render_markdown([section_of(table)]))
    assert shown == [("h2", text), ("th", text), ("th", "n"), ("td", text), ("td", "1"), ("p", text)]
    student, endpoint = (summary.config.student, MODEL.teacher.endpoint.model_copy(update={"model": text}))
    roles = {"teacher": MODEL.teacher, "judge": MODEL.judge}
    named = {name: role.model_copy(update={"endpoint": endpoint}) for name, role in roles.items()}
    named["student"] = student.model_copy(update={"backbone": text})
    card = run_card(replace(summary, config=summary.config.model_copy(update=named)), reader)
    [said] = [said for _, said in read_markdown(card) if "taught by" in said]
    assert said.startswith(f"The student {text} is taught by {text} and judged by {text}, over 2 rounds.")
    image = render_markdown([Section(text, plot=draw("t", 1, lambda _: None), note=text)])
    assert read_markdown(image) == [("h2", text), ("p", ""), ("p", text)]


def test_text_of_several_lines_stays_in_its_cell() -> None:
    table = Table("t", ("a", "n"), (("one\ntwo\r\n\n| three", "1"),))
    assert read_markdown(markdown_table(table))[2:] == [("td", "one two | three"), ("td", "1")]


def test_what_markdown_takes_as_it_is_stays_readable() -> None:
    text = "S_0 of alpaca_eval: +5.4 (+1.2 to +9.6), p = 0.0130; 100 % & 3.5"
    assert markdown_text(text) == text


def read_markdown(text: str) -> list[tuple[str, str]]:
    """Tag and text of every heading, cell and paragraph, as a browser shows what Prefect and GitHub make of it."""
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    markdown.validateLink = lambda _: True  # type: ignore[method-assign]  # images are `data:` addresses
    page = markdown.render(text)
    root = ElementTree.fromstring(f"<page>{page}</page>")
    return [(each.tag, "".join(each.itertext())) for each in root.iter() if each.tag in ("h1", "h2", "th", "td", "p")]
