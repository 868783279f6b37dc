import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tapir_core.paths import BACKBONE, REPORT, judge_report_file
from tapir_core.reporting import sentences
from tapir_core.reporting.report import render_report, write_report
from tapir_core.reporting.tables import accuracy_table
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import RunReader, summarise
from tapir_core.summary.types import Answer, Example, Examples
from tests.run_builder import build_run, make_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return Path(write_report(run)).read_text()


class _Reader(HTMLParser):
    """Notes open elements, and every address that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_well_formed_and_fetches_nothing(page: str) -> None:
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    assert "script" not in reader.seen
    assert "link" not in reader.seen
    assert [address for address in reader.fetched if not address.startswith("#")] == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_report_has_every_plot_and_ten_instructions(page: str) -> None:
    assert page.count("<svg ") == 7
    assert page.count('<article class="example">') == 10
    assert page.count("✓ right") + page.count("✗ wrong") == 30
    assert "10 test instructions to read" in page


def test_the_report_says_that_the_standin_is_no_llm_and_how_to_see_the_ui(page: str) -> None:
    assert "are the stand-in: rules for verifiable instructions, no LLM" in page
    assert "tapir up" in page
    assert "tag run-example" in page


def test_the_page_begins_with_what_the_run_is_its_scores_and_what_its_students_answer(page: str) -> None:
    assert "<p>The student " in page
    assert re.search(
        r"Its pool: 2\d\d instructions from the stand-in, \d+ of them without a usable answer or task type\.", page
    )
    assert re.search(r"Scored on 40 dev and 80 test .* So far: [\d,]+ answers of teacher and judge for ", page)
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings[:3] == ["Accuracy by round", "10 test instructions to read", "Accuracy by task type"]
    assert headings[-1] == "How to go on"


def test_the_contents_lead_to_every_section_and_no_text_has_a_literal_backtick(page: str) -> None:
    linked, sections = re.findall('<a href="#([^"]+)"', page), re.findall('<section id="([^"]*)">', page)
    assert [each for each in sections if each] == linked
    assert len({*linked}) == len(linked) > 8
    shown = re.sub("<pre.*?</pre>|<td.*?</td>", "", page, flags=re.DOTALL)
    assert "`" not in shown
    assert "start <code>tapir up</code> for the run root" in shown


def test_the_report_explains_its_words_and_leads_to_export_and_to_the_judge_reports(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    assert "judge_report.html" not in Path(write_report(run)).read_text()
    run.storage.write_bytes(judge_report_file(2), b"<html>")
    page = Path(write_report(run)).read_text()
    assert f'<a href="{judge_report_file(2)}">round 2</a>' in page
    assert "<code>tapir export example</code>" in page
    for word in ("MFD", "Seeds", "δ", "Quality retention"):
        assert f"<strong>{word}</strong>" in page.split("<h2>Words</h2>")[1]


def test_the_learning_curve_of_each_training_is_drawn_where_the_trainer_left_one(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=StageAt("mix", 1))
    assert "<h2>Training</h2>" not in Path(write_report(run)).read_text(), "older folders, and tests, have none"
    curve = [{"step": step, "loss": 3 / step, "learning_rate": 2e-4, "grad_norm": 1.5} for step in range(1, 1001)]
    curve[4].pop("grad_norm")
    summary = {"steps": 1000, "final_loss": 0.003, "precision": "fp32", "loss_curve": curve}
    run.storage.write_bytes("round_00/checkpoint/training.json", json.dumps(summary).encode())
    page = Path(write_report(run)).read_text()
    plot = page.split("<h2>Training</h2>")[1].split("</svg>")[0]
    for label in ("loss", "learning rate", "gradient norm", "S_0", "steps of all trainings"):
        assert f">{label}" in plot, label
    assert len(plot) < 60_000, "a long training is drawn by some of its steps"
    assert "<td>0.003</td>" in page
    assert "lead" not in plot


def test_what_an_objective_is_watched_by_has_a_panel_of_its_own(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=StageAt("mix", 1))
    for number, more in ((0, {}), (1, {"gap": -0.3, "clipped": 0.1})):
        curve = [{"step": step, "loss": 1.0, "learning_rate": 1e-6, "grad_norm": 1.0, **more} for step in range(1, 9)]
        told = json.dumps({"steps": 8, "loss_curve": curve, "changed": 0.25}).encode()
        run.storage.write_bytes(f"round_0{number}/checkpoint/training.json", told)
    page = Path(write_report(run)).read_text()
    plot = page.split("<h2>Training</h2>")[1].split("</svg>")[0]
    assert ">teacher&#x27;s lead, nats a token" in plot or ">teacher's lead, nats a token" in plot
    assert ">share of pairs gained" not in plot
    assert "<td>25.0 %</td>" in page


def test_a_backbone_that_states_no_result_has_its_score_explained(run: RunFolder) -> None:
    assert "Part of the gain over the backbone is format" not in Path(write_report(run)).read_text()
    summary = summarise(run)
    rounds = [replace(each, stated=0.02 if each.number == BACKBONE else each.stated) for each in summary.rounds]
    said = sentences.format_note(replace(summary, rounds=tuple(rounds)))
    assert said.startswith(
        "Part of the gain over the backbone is format: 2.0 % of its answers on the test split state a "
    )
    assert "against 100.0 % of those of S_2" in said
    reader = RunReader(run)
    assert said in render_report(replace(summary, rounds=tuple(rounds)), reader, None).replace("&#39;", "'")
    assert said in accuracy_table(replace(summary, rounds=tuple(rounds))).note
    unscored = replace(summary, rounds=tuple(replace(each, scores=None) for each in rounds))
    assert "format" not in render_report(unscored, reader, None).split("<footer>")[0], (
        "answered, and as yet nobody is scored"
    )


def test_the_same_folder_gives_the_same_report(run: RunFolder, page: str) -> None:
    assert Path(write_report(RunFolder(run.ref))).read_text() == page


def test_what_a_model_wrote_cannot_become_part_of_the_page(run: RunFolder) -> None:
    hostile = "<script>alert(1)</script><svg onload=x>&amp;"
    answer = Answer(hostile, "✗ wrong", hostile, correct=False)
    example = Example("stayed wrong", "Math", hostile, (answer,), hostile, hostile)
    summary, examples = replace(summarise(run), name=hostile), Examples((example,), 1, {"stayed wrong": 1})
    page = render_report(summary, RunReader(run), examples)
    assert "<script>" not in page
    assert "<svg onload" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5 + 2


@pytest.mark.parametrize("until", [StageAt("pool"), StageAt("evaluate", BACKBONE), StageAt("difficulty", 1)])
def test_an_unfinished_run_has_a_report_that_says_what_comes_next(tmp_path: Path, until: StageAt) -> None:
    run = build_run(tmp_path, until=until)
    page = Path(write_report(run)).read_text()
    assert "Unfinished, " in page
    assert "Next stage: " in page


def test_a_run_without_a_heldout_set_has_a_report_without_accuracy(tmp_path: Path) -> None:
    config = make_config(tmp_path, data={"pool": {"type": "standin", "rows": 120}})
    page = Path(write_report(build_run(tmp_path, config=config))).read_text()
    assert "Accuracy by round" not in page
    assert "10 instructions of the pool to read" in page
    assert page.count("<b>teacher ") == page.count("<b>S_0 ") == page.count("<b>S_1 ") == 10
    assert "Task shares" in page


def test_the_report_lies_in_the_run_folder(run: RunFolder) -> None:
    assert run.storage.exists(REPORT)
