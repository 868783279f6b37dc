"""The lab beside the product: differences of arms that both made, and the plot of what arms cost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lab import __main__ as lab
from tapir_core.comparison.outcome import ResultsFolder
from tapir_core.comparison.plan import open_comparison
from tapir_core.errors import ConfigError
from tasks.input_files import gather_files
from tests.harness.processes import REPOSITORY
from tests.tapir_core.comparison.test_arms import lay, spec
from tests.tapir_core.comparison.test_figures import graded, outcome

PRODUCT = {"multi_round": 0.6, "random": 0.5}


def lay_both(folder: Path, of_lab: dict[str, float], seeds: tuple[int, ...] = (1, 2)) -> list[str]:
    """Results of the product, with seeds 1 and 2, and of the lab; gives the words of the command."""
    plan = open_comparison(lay(folder, spec()))
    results = ResultsFolder(folder / "product", plan, gather_files)
    for each in plan.runs:
        results.write(outcome(each.arm, each.run_seed, PRODUCT[each.arm.name]))
    (folder / "lab").mkdir()
    for arm, share in of_lab.items():
        for seed in seeds:
            student = graded(share, seed)
            told = {
                "arm": arm,
                "seed": seed,
                "exported": "1",
                "students": {"1": {"test": student.correct}},
                "weights": student.weights,
            }
            (folder / "lab" / f"e-{arm}-s{seed}.json").write_text(json.dumps(told))
    words = ["agree", str(folder / "lab"), "--comparison", str(folder / "c.toml")]
    return [*words, "--results", str(folder / "product")]


def test_differences_that_are_alike_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.main(lay_both(tmp_path, {"multi_round": 0.6, "random": 0.5})) == 0
    [heads, row, _, said] = capsys.readouterr().out.splitlines()
    assert heads.split()[:4] == ["difference", "seeds", "lab", "product"]
    assert row.startswith("random − multi_round  2 ")
    assert row.split().count("+0.0") == 2, "the gap at equal and at natural shares"
    assert "All gaps are within 4 points" in said


def test_a_difference_that_parts_by_more_is_told_with_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accuracies may part: only the difference counts."""
    assert lab.main(lay_both(tmp_path, {"multi_round": 0.45, "random": 0.45})) == 1
    said = capsys.readouterr().out
    assert "Apart by more than 4 points: random − multi_round (-" in said


def test_only_seeds_that_both_have_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.main(lay_both(tmp_path, {"multi_round": 0.6, "random": 0.5}, seeds=(2, 3))) == 0
    assert "random − multi_round  1 " in capsys.readouterr().out


def test_nothing_in_common_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = lab.main(lay_both(tmp_path, {"multi_round": 0.6, "other": 0.5}))
    assert code == ConfigError.exit_code
    assert "have no two arms with a seed in common" in capsys.readouterr().err


def test_the_table_of_the_docs_is_what_the_recorded_results_give(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    words = ["--comparison", "configs/compare_recommended.toml", "--results", "benchmarks/results/compare-recommended"]
    lab.main(["agree", "benchmarks/results/lab-e4", *words])
    assert f"```text\n{capsys.readouterr().out}```" in Path("benchmarks/results/lab-e4/agreement.md").read_text()


def test_the_plot_has_every_arm_by_its_label(tmp_path: Path) -> None:
    file = tmp_path / "plot.svg"
    assert lab.main(["plot", str(REPOSITORY / "benchmarks/results/lab-e4"), "--to", str(file)]) == 0
    drawn = file.read_text()
    assert drawn.startswith("<svg ")
    assert (REPOSITORY / "docs/images/when-it-pays.svg").read_text() == drawn, "docs/when-it-pays.md shows it"


@pytest.mark.slow
def test_the_recorded_results_are_of_the_recipes_as_they_are(tmp_path: Path) -> None:
    words = ["run", "benchmarks/lab/e4.toml", "--to", "benchmarks/results/lab-e4", "--work-folder", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.lab", *words, "--seed", "601"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, f"README's results are of another recipe: {done.stderr}"
    assert done.stdout.count("is there") == 4
