"""A table of a comparison on a page is what `tapir compare` prints of the results that stand beside it.

On a page it stands between the lines `<!-- tapir compare SPEC --results FOLDER --show --markdown -->` and
`<!-- end -->`; places are seen from the root of the repository.
"""

import json
import re
from pathlib import Path

import pytest

from flows.series import read_comparison
from tapir_core.comparison.outcome import ResultsFolder
from tapir_core.comparison.plan import open_comparison
from tapir_core.reporting.arms_report import arms_card
from tasks.input_files import gather_files
from tests.tapir_core.comparison.test_arms import lay, spec
from tests.tapir_core.comparison.test_figures import outcome

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks" / "results").glob("*/README.md")])
OPENED = re.compile(r"^<!-- tapir compare\b.*$", re.MULTILINE)
BLOCK = re.compile(
    r"^<!-- tapir compare (?P<spec>\S+) --results (?P<results>\S+) --show --markdown -->\n(?P<shown>.*?)^<!-- end -->$",
    re.MULTILINE | re.DOTALL,
)


def wrong_tables(page: str, empty: Path) -> list[str]:
    """The opening lines of the page's tables that are not what their command prints, or that nothing ends.

    ``empty`` is a root without runs: what stands in the folder of results counts alone, and nothing is written there.
    """
    right = {block.start() for block in BLOCK.finditer(page) if block["shown"].strip() == printed(block, empty)}
    return [opened[0] for opened in OPENED.finditer(page) if opened.start() not in right]


def printed(block: re.Match[str], empty: Path) -> str:
    plan = open_comparison(block["spec"], [f"run.root={json.dumps(str(empty))}"])
    return arms_card(read_comparison(plan, ResultsFolder(Path(block["results"]), plan, gather_files))).strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_the_tables_of_a_page_are_what_the_results_give(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert wrong_tables(page.read_text(), tmp_path) == []


class TestChecker:
    """Of a page beside results of a comparison, two run seeds of two arms."""

    OPENING = "<!-- tapir compare c.toml --results results --show --markdown -->"

    @pytest.fixture
    def table(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """What the command prints."""
        plan = open_comparison(lay(tmp_path, spec()))
        results = ResultsFolder(tmp_path / "results", plan, gather_files)
        for each in plan.runs:
            results.write(outcome(each.arm, each.run_seed, 0.5 if each.arm.name == "random" else 0.6))
        monkeypatch.chdir(tmp_path)
        return arms_card(read_comparison(plan, results))

    def page(self, table: str, opening: str = OPENING, end: str = "<!-- end -->") -> str:
        return f"# Results\n\nBefore.\n\n{opening}\n{table}\n{end}\n\nAfter.\n"

    def test_the_table_of_the_results_is_right(self, table: str, tmp_path: Path) -> None:
        assert "beats Random" in table
        assert wrong_tables(self.page(table), tmp_path / "empty") == []
        assert wrong_tables(self.page(f"\n{table}\n"), tmp_path / "empty") == []

    def test_a_wrong_figure_is_found_wherever_it_stands(self, table: str, tmp_path: Path) -> None:
        places = [found.start() for found in re.finditer(r"\d", table)]
        assert len(places) > 100
        for place in places[:: len(places) // 8]:
            wrong = table[:place] + str((int(table[place]) + 1) % 10) + table[place + 1 :]
            assert wrong_tables(self.page(wrong), tmp_path / "empty") == [self.OPENING]

    def test_a_wrong_table_is_found_beside_a_right_one(self, table: str, tmp_path: Path) -> None:
        other = self.OPENING.replace("c.toml", "./c.toml")
        pages = self.page(table) + self.page(table.replace("beats", "surpasses"), opening=other)
        assert wrong_tables(pages, tmp_path / "empty") == [other]

    def test_results_that_changed_since_are_found(self, table: str, tmp_path: Path) -> None:
        file = tmp_path / "results" / "c-random-s2.json"
        told = json.loads(file.read_text())
        told["usd"] += 1.0
        file.write_text(json.dumps(told))
        assert wrong_tables(self.page(table), tmp_path / "empty") == [self.OPENING]

    @pytest.mark.parametrize(
        "broken",
        [
            {"end": ""},
            {"end": "<!-- End -->"},
            {"opening": "<!-- tapir compare c.toml --results results -->"},
            {"opening": "<!-- tapir compare c.toml --results results --markdown -->"},
            {"opening": "<!-- tapir compare c.toml --show --markdown --results results -->"},
        ],
        ids=str,
    )
    def test_a_table_that_cannot_be_read_is_no_right_one(
        self, table: str, tmp_path: Path, broken: dict[str, str]
    ) -> None:
        assert len(wrong_tables(self.page(table, **broken), tmp_path / "empty")) == 1
