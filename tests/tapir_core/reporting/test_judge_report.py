import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from tapir_core.paths import judge_report_file
from tapir_core.reporting.judge_report import summarise_judge, write_judge_report
from tapir_core.run_folder import RunFolder
from tapir_core.run_state import judge_is_shown
from tests.run_builder import build_run
from tests.tapir_core.reporting.judged_rounds import EDGES, judged_run

HOSTILE = "</pre><script>alert(1)</script><svg onload=x>{{ 7 * 7 }}&amp;"


def write_page(run: RunFolder) -> str:
    return Path(write_judge_report(run, summarise_judge(run, 1))).read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return write_page(run)


class _Reader(HTMLParser):
    """Notes open elements, what is said, and every address that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.seen: set[str] = set()
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)


def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_the_report_is_well_formed_and_fetches_nothing(page: str) -> None:
    reader = read(page)
    assert reader.seen.isdisjoint({"script", "link", "img", "iframe"})
    assert [address for address in reader.fetched if not address.startswith("#")] == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_report_has_three_plots_and_verdicts_to_read(page: str) -> None:
    assert page.count("<svg ") == 3
    assert page.count('<article class="example">') == 10
    assert "The judge of round 1" in page


def test_the_report_lies_in_its_round_and_is_the_same_again(run: RunFolder, page: str) -> None:
    assert run.storage.exists(judge_report_file(1))
    assert write_page(RunFolder(run.ref)) == page


def test_a_report_counts_as_written_while_it_shows_the_verdicts_that_hold(tmp_path: Path) -> None:
    run = judged_run(tmp_path, lambda rows: rows)
    assert not judge_is_shown(run, 1)
    write_page(run)
    assert judge_is_shown(run, 1)
    judged_run(tmp_path, lambda rows: rows.with_columns(student_score=pl.lit(1.0)))  # as after `tapir retry-judge`
    assert not judge_is_shown(run, 1)
    write_page(run)
    assert judge_is_shown(run, 1)


def test_a_panel_has_a_report_that_names_its_judges(tmp_path: Path) -> None:
    panel = [{"type": "openai", "model": "<b>two</b>", "identity": "i"}]
    page = write_page(judged_run(tmp_path, lambda rows: rows, panel=panel))
    assert "judged by standin-judge and &lt;b&gt;two&lt;/b&gt;, combined by mean" in page
    assert "Agreement between judges" in page
    assert "Each judge alone" in page
    assert "teacher first, standin-judge:" in page


@pytest.mark.parametrize("edge", EDGES)
def test_a_strange_round_has_a_report_without_nan(tmp_path: Path, edge: str) -> None:
    page = write_page(judged_run(tmp_path, EDGES[edge]))
    words = set(re.findall(r"\w+", " ".join(read(page).said)))
    assert words.isdisjoint({"nan", "NaN", "inf", "None"})
    assert "script" not in read(page).seen


def test_what_a_judge_or_a_student_wrote_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    def change(rows: pl.DataFrame) -> pl.DataFrame:
        unscored = pl.col("instruction_id").rank("dense") % 2 == 0
        return rows.with_columns(
            raw=pl.lit(HOSTILE),
            student_score=pl.when(~unscored).then(pl.when(pl.col("order") == "student_first").then(7.0).otherwise(2.0)),
            teacher_score=pl.when(~unscored).then(9.0),
            status=pl.when(unscored).then(pl.lit("unscored")).otherwise(pl.lit("scored")),
            reason=pl.when(unscored).then(pl.lit(HOSTILE)),
        )

    page = write_page(judged_run(tmp_path, change))
    assert read(page).seen.isdisjoint({"script"})
    assert "<svg onload" not in page
    assert "{{ 7 * 7 }}" in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 10


def test_matplotlib_is_not_imported_before_a_plot_is_drawn() -> None:
    code = "import sys, tapir_core.reporting.judge_report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
