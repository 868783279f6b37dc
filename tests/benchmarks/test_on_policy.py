"""What pages say of the pair on the CPU is what its recorded results give."""

import re

import pytest

from benchmarks.on_policy import runs
from benchmarks.on_policy.pair import show
from tests.harness.processes import REPOSITORY


def test_figures_of_the_pages_are_those_of_the_recorded_results(capsys: pytest.CaptureFixture[str]) -> None:
    show(REPOSITORY / "benchmarks" / "results" / "on-policy")
    printed = capsys.readouterr().out.replace("-", "−")
    dev = [float(each) for each in re.findall(r": (\d+\.\d)", printed)]
    assert len(dev) == 9
    test, apart = re.findall(r"test (\d+\.\d)", printed), re.findall(r"over A (\S+ \(\S+ to \S+\)), 5 seeds", printed)
    rules = (REPOSITORY / "benchmarks" / "on_policy" / "README.md").read_text().replace("**", "")
    for row in (dev[:3], dev[3:6], dev[6:]):
        assert ", ".join(f"{each:g}" if each % 1 else f"{each:.1f}" for each in row) in rules
    assert all(f"{each} %" in rules for each in test)
    assert all(each in rules for each in apart[1:])
    for page in ("when-it-pays.md", "LOG.md"):
        text = (REPOSITORY / "docs" / page).read_text()
        assert all(each.replace("+", "") in text.replace("95 %: ", "") for each in apart[1:]), page
        assert test[0] in text


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
