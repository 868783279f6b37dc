"""`tapir move`: what the user is told, what stays, who is kept away."""

import io
import re

import pytest
from fsspec.implementations.local import LocalFileSystem
from rich.console import Console
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.folders import move_run
from flows.commands.terminal import run_ref
from flows.driver import run_lease
from tapir_core.calls import root_store_url
from tapir_core.errors import ConfigError, RunBusy
from tapir_core.run_folder import RunFolder, RunRef, runs_of
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


@pytest.mark.parametrize("root", ["", "~/runs"])
def test_a_run_moves_to_no_root_that_is_no_folder(run, root):
    with pytest.raises(ConfigError, match="is no folder here; write the path of one"):
        move(run, root)


@pytest.mark.parametrize("root", ["file://{0}", "{0}/{1}", "{0}/../runs", "{0}/link"])
def test_a_run_is_never_removed_for_a_copy_of_itself(run, tmp_path, root):
    (tmp_path / "runs/link").symlink_to(tmp_path / "runs")
    before = run.storage.files()
    with pytest.raises(ConfigError, match="already; name another root"):
        move(run, root.format(run.ref.root, run.ref.name), remove=True)
    assert run.storage.files() == before


def test_a_run_whose_folder_is_a_link_is_not_removed_for_what_the_link_names(run, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "runs" / run.ref.name).rename(there / run.ref.name)
    (tmp_path / "runs" / run.ref.name).symlink_to(there / run.ref.name)
    with pytest.raises(ConfigError, match="already; name another root"):
        move(run, there, remove=True)
    assert (there / run.ref.name / "run.json").exists()


def test_a_stage_that_lies_on_another_disk_moves_along(run, tmp_path):
    labels = tmp_path / "runs" / run.ref.name / "labels"
    labels.rename(tmp_path / "disk")
    labels.symlink_to(tmp_path / "disk")
    move(run, tmp_path / "there", remove=True)
    assert RunFolder(RunRef(str(tmp_path / "there"), run.ref.name)).holds(StageAt("label")) is not None


@pytest.mark.parametrize("root", ["{0}/../runs", "{0}/../link"])
def test_a_run_has_one_driver_by_whatever_name_it_is_called(run, tmp_path, root):
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    (tmp_path / "runs/link").symlink_to(tmp_path / "runs")
    other = RunFolder(RunRef(root.format(run.ref.root), run.ref.name))
    with run_lease(run.config), pytest.raises(RunBusy), run_lease(other.config):
        pass


def test_a_run_may_be_called_by_the_folder_one_is_in(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "runs" / run.ref.name)
    assert run_ref(".", "runs") == RunRef(str(tmp_path / "runs"), run.ref.name)
    monkeypatch.chdir(tmp_path / "runs" / run.ref.name / "labels")
    assert run_ref("..", "runs") == RunRef(str(tmp_path / "runs"), run.ref.name)


def test_what_nobody_may_read_beside_the_runs_is_no_run(run, tmp_path, monkeypatch):
    (tmp_path / "runs" / "lost+found").mkdir()
    info = LocalFileSystem.info

    def guarded(self, path, **how):
        if "lost+found/" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return info(self, path, **how)

    monkeypatch.setattr(LocalFileSystem, "info", guarded)
    assert [each.ref.name for each in runs_of(str(tmp_path / "runs"))] == [run.ref.name]


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


def test_an_unfinished_training_is_not_removed_with_the_original(run, tmp_path):
    saved = tmp_path / "runs" / run.ref.name / "round_01/training/0123456789abcdef/optimizer.pt"
    saved.parent.mkdir(parents=True)
    saved.write_bytes(b"two days")
    with pytest.raises(ConfigError, match=r"would lose round_01/training/.*optimizer\.pt, of a training that has not"):
        move(run, tmp_path / "there", remove=True)
    assert saved.exists()
    move(run, tmp_path / "there")
    assert saved.exists()


def test_a_run_whose_folder_is_a_link_moves_whole(run, tmp_path):
    place = tmp_path / "runs" / run.ref.name
    place.rename(tmp_path / "disk")
    place.symlink_to(tmp_path / "disk")
    move(run, tmp_path / "there", remove=True)
    assert not (tmp_path / "disk").exists()
    assert RunFolder(RunRef(str(tmp_path / "there"), run.ref.name)).holds(StageAt("label")) is not None
