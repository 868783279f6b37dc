"""`tapir side-by-side`: tables on the terminal, a page below the root."""

from pathlib import Path

from typer.testing import CliRunner

from flows.cli import app
from tapir_core.paths import SIDE_BY_SIDE
from tapir_core.stages import StageAt
from tests.run_builder import build_run
from tests.run_config import make_config


def test_runs_stand_side_by_side_on_the_terminal_and_on_a_page(tmp_path: Path) -> None:
    for name in ("one", "two"):
        config = make_config(tmp_path, run={"name": name}, data={"pool": {"type": "standin", "rows": 40}})
        build_run("", until=StageAt("teach"), config=config)
    asked = ["side-by-side", "one", str(tmp_path / "two"), "--root", str(tmp_path)]
    done = CliRunner().invoke(app, asked, env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    assert "Share from the store" in done.output
    assert str(tmp_path / SIDE_BY_SIDE) in done.output.replace("\n", "")
    assert (tmp_path / SIDE_BY_SIDE).exists()
