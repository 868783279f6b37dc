"""What pages say of the pair on the CPU is what its recorded results give."""

import pytest

from benchmarks.on_policy import runs
from tests.harness.processes import REPOSITORY


def test_the_table_of_the_products_runs_is_that_of_its_recorded_results(capsys: pytest.CaptureFixture[str]) -> None:
    runs.show(REPOSITORY / "benchmarks" / "results" / "on-policy-runs")
    rows = capsys.readouterr().out.replace("-", "−").splitlines()
    pages = [REPOSITORY / each for each in ("benchmarks/on_policy/README.md", "docs/when-it-pays.md", "docs/LOG.md")]
    rules, *others = (page.read_text() for page in pages)
    assert len(rows) == 3
    for number, row in enumerate(rows):
        marks, apart, gap = (each.strip() for each in row.split("|")[4:7])
        assert marks + " %" in rules
        assert gap in rules
        said = apart if number else marks
        assert all(said in text for text in (rules, *others))
