"""`tapir move`: what the user is told, what stays, who is kept away."""

import io
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.folders import move_run
from flows.driver import run_lease
from tapir_core.calls import root_store_url
from tapir_core.errors import ConfigError, RunBusy
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.store_admin import gather_stats, open_existing
from tests.run_builder import build_run
from tests.tapir_core.store_admin.store_rows import fill, numbered


@pytest.fixture
def run(tmp_path):
    return build_run(tmp_path / "runs", until=StageAt("label"))


def move(run, root, **options):
    said, printed = [], io.StringIO()
    move_run(run.ref, str(root), Console(file=printed, width=200), say=said.append, **options)
    return " ".join([*said, *printed.getvalue().splitlines()])


def test_the_original_stays_and_the_user_is_told_so(run, tmp_path):
    told = move(run, tmp_path / "there")
    assert "all are verified" in told
    assert f"the original stays in {run.ref.root}" in told
    assert run.holds(StageAt("label")) == RunFolder(RunRef(str(tmp_path / "there"), run.ref.name)).holds(
        StageAt("label")
    )


def test_the_user_is_told_how_the_paid_answers_come_along(run, tmp_path):
    fill(root_store_url(run.ref.root), numbered(3))
    [command] = re.findall("`tapir (store copy .*?)`", move(run, tmp_path / "there"))
    assert "3 added" in CliRunner().invoke(app, command.split()).output
    assert gather_stats(open_existing(root_store_url(str(tmp_path / "there")))).rows == 3


def test_the_same_command_again_copies_nothing_and_may_remove_the_original(run, tmp_path):
    move(run, tmp_path / "there")
    told = move(run, tmp_path / "there", remove=True)
    assert "copied 0 files" in told
    assert "has it no more" in told
    assert not run.storage.exists("")
    with pytest.raises(ConfigError, match="there is no run"):
        move(run, tmp_path / "there")


def test_a_run_that_somebody_drives_is_not_moved(run, tmp_path):
    with run_lease(run.config), pytest.raises(RunBusy, match="is driven by process"):
        move(run, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_run_does_not_move_to_where_it_is(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is in 'runs' already"):
        move(run, "runs")


def test_a_run_moves_to_s3_and_back_by_the_command_line(s3, run, tmp_path):
    def tapir(*words):
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.output

    tapir("move", run.ref.name, "s3://runs/all", "--root", run.ref.root, "--remove")
    assert not run.storage.exists("")
    assert "label" in tapir("status", f"s3://runs/all/{run.ref.name}")
    assert run.ref.name in tapir("status", "--root", "s3://runs/all")
    tapir("move", f"s3://runs/all/{run.ref.name}", tmp_path / "back")
    assert RunFolder(RunRef(str(tmp_path / "back"), run.ref.name)).holds(StageAt("label")) is not None
