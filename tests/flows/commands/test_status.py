"""`tapir status`: benchmarks that were asked later stand under the stages."""

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
    lines = [line.split() for line in shown.splitlines()]
    [later_row] = [line for line in lines if line[:1] == ["ae"]]
    assert later_row[:4] == ["ae", "S_0", "later", "done"]
    assert "win" in later_row
    assert [line[1] for line in lines if line[:1] == ["vi"]] == ["backbone", "S_0", "S_1", "S_2"]


def test_a_run_without_benchmarks_has_no_such_table(tmp_path: Path) -> None:
    config = make_config(tmp_path, run={"name": "asked"}, data={"pool": {"type": "standin", "rows": 40}})
    build_run("", config=config, until=StageAt("teach"))
    assert "Benchmarks" not in status(tmp_path)
