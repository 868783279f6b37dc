"""`tapir status`: benchmarks that were asked later stand under the stages."""

import re
from pathlib import Path

from typer.testing import CliRunner

from flows.cli import app
from tapir_core.stages import StageAt, benchmark_stages
from tests.benchmark_runs import ALPACA, VICUNA
from tests.run_builder import build_run
from tests.run_config import make_config


def status(root: Path) -> str:
    done = CliRunner().invoke(app, ["status", "asked", "--root", str(root)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def test_stages_name_their_benchmark_and_all_benchmarks_have_state_and_figure(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        run={"name": "asked"},
        data={"pool": {"type": "standin", "rows": 120}},
        evaluation={
            "benchmarks": {"vi": VICUNA, "ae": ALPACA},
            "each_round": ["vi"],
            "decontamination": {"max_rouge_l": 1.0},
        },
    )
    later = [StageAt("benchmark_items", benchmark="ae"), *benchmark_stages("ae", 0)]
    build_run("", config=config, until=benchmark_stages("vi", 0)[-1], later=later)
    shown = status(tmp_path)
    assert "benchmark_answers vi" in shown
    later_asked, each_round = re.split(r"Benchmark (?:vi|ae)\b", shown)[1:]
    rows = [line.split() for line in each_round.splitlines() if "each round" in line]
    assert [row[0] for row in rows] == ["backbone", "S_0", "S_1", "S_2"]
    [later_row] = [line.split() for line in later_asked.splitlines() if line.startswith("S_")]
    assert later_row[:3] == ["S_0", "later", "done"]
    assert "win" in later_row
    assert "Judged by standin-judge (" in later_asked


def test_a_run_without_benchmarks_has_no_such_table(tmp_path: Path) -> None:
    config = make_config(tmp_path, run={"name": "asked"}, data={"pool": {"type": "standin", "rows": 40}})
    build_run("", config=config, until=StageAt("teach"))
    assert "Benchmark " not in status(tmp_path)
