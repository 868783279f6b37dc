import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tapir_core.paths import BACKBONE, REPORT
from tapir_core.reporting.report import render_report, write_report
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import Example, ExampleAnswer, Examples, summarise
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
    assert page.count("<svg ") == 6
    assert page.count('<article class="example">') == 10
    assert page.count("✓ right") + page.count("✗ wrong") == 30
    assert "10 test instructions to read" in page


def test_the_report_says_that_the_standin_is_no_llm_and_how_to_see_the_ui(page: str) -> None:
    assert "are the stand-in: rules for verifiable instructions, no LLM" in page
    assert "tapir up" in page
    assert "tag run-example" in page


def test_the_same_folder_gives_the_same_report(run: RunFolder, page: str) -> None:
    assert Path(write_report(RunFolder(run.ref))).read_text() == page


def test_what_a_model_wrote_cannot_become_part_of_the_page(run: RunFolder) -> None:
    hostile = "<script>alert(1)</script><svg onload=x>&amp;"
    answer = ExampleAnswer(0, hostile, False)
    examples = Examples(
        (Example(hostile, hostile, "Math", hostile, "stayed wrong", (answer,)),), 1, {"stayed wrong": 1}
    )
    page = render_report(summarise(run), examples, hostile)
    assert "<script>" not in page
    assert "<svg onload" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 5


@pytest.mark.parametrize("until", [StageAt("pool"), StageAt("evaluate", BACKBONE), StageAt("difficulty", 1)])
def test_an_unfinished_run_has_a_report_that_says_what_comes_next(tmp_path: Path, until: StageAt) -> None:
    run = build_run(tmp_path, until=until)
    page = Path(write_report(run)).read_text()
    assert "Unfinished, " in page
    assert "Next stage: " in page


def test_a_run_without_a_heldout_set_has_a_report_without_accuracy(tmp_path: Path) -> None:
    config = make_config(tmp_path, data={"pool": {"type": "standin", "rows": 120}})
    page = Path(write_report(build_run(tmp_path, config=config))).read_text()
    assert "Held-out accuracy" not in page
    assert "Task shares" in page


def test_the_report_lies_in_the_run_folder(run: RunFolder) -> None:
    assert run.storage.exists(REPORT)
