"""A copied run is the run or none: whatever broke off, whatever lies there already."""

import itertools

import pytest

from tapir_core.data.dataset import read_manifest
from tapir_core.errors import ConfigError, TapirError
from tapir_core.paths import MANIFEST, RUN_RECORD, attempt_folder
from tapir_core.run_files import copy_run, remove_run
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt, plan
from tapir_core.storage import Storage, Timeouts
from tests.run_builder import build_run
from tests.s3_server import answer, nothing


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A run with its first checkpoint; read only."""
    return build_run(tmp_path_factory.mktemp("runs"), until=StageAt("train", 0))


@pytest.fixture
def run(built, tmp_path):
    """A run of one's own."""
    copy(built.storage, Storage(tmp_path / "runs" / built.ref.name))
    return RunFolder(RunRef(str(tmp_path / "runs"), built.ref.name))


def copy(source, target, on_file=lambda *_: None):
    return copy_run(source, target, on_file=on_file)


def held(run):
    return {at: run.holds(at) for at in plan(run.config)}


def test_every_stage_of_a_moved_run_holds_on_s3_and_back_on_a_disk(s3, built, tmp_path):
    name = built.ref.name
    there = copy(built.storage, Storage(f"s3://runs/all/{name}"))
    assert there.files == len(built.storage.files())
    remote = RunFolder(RunRef("s3://runs/all", name))
    copy(remote.storage, Storage(f"s3://runs/other/{name}"))
    copy(Storage(f"s3://runs/other/{name}"), Storage(tmp_path / name))
    back = RunFolder(RunRef(str(tmp_path), name))
    assert held(built) == held(remote) == held(back)
    assert held(back)[StageAt("train", 0)] is not None
    assert remote.rows(StageAt("mix", 0)).equals(built.rows(StageAt("mix", 0)))
    assert back.storage.files() == built.storage.files()


def test_what_no_run_needs_stays_behind(run, tmp_path):
    run.storage.write_bytes(".results/abc", b"of Prefect")
    run.storage.write_bytes(f"{attempt_folder(1, 'k' * 64)}/optimizer", b"of a training")
    run.storage.write_bytes("pool/.part-1.parquet.0f0f", b"half a file")
    run.storage.write_bytes("logs/student.log", b"goes along")
    target = Storage(tmp_path / "there")
    copy(run.storage, target)
    assert run.storage.files().keys() - target.files().keys() == {
        ".results/abc",
        f"{attempt_folder(1, 'k' * 64)}/optimizer",
        "pool/.part-1.parquet.0f0f",
    }


def test_a_copy_that_breaks_off_anywhere_is_no_run_and_goes_on_where_it_stopped(built, tmp_path):
    files = len(built.storage.files())
    for stop in (0, files // 2, files - 1):
        target = Storage(tmp_path / str(stop))
        told = itertools.count()

        def break_off(*_, told=told, stop=stop):
            if next(told) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            copy(built.storage, target, break_off)
        assert target.exists(RUN_RECORD) == (stop == files - 1)
        for folder in [path.rpartition("/")[0] for path in target.files() if path.endswith(MANIFEST)]:
            assert {part.name for part in read_manifest(target, folder).parts} <= set(target.names(folder))
        done = copy(built.storage, target)
        assert (done.files, done.already_there) == (files - stop - 1, stop + 1)
        assert target.files() == built.storage.files()


def test_a_file_that_arrived_damaged_is_copied_again_while_the_copy_is_unfinished(built, tmp_path):
    target = Storage(tmp_path / "there")
    copy(built.storage, target)
    target.remove(RUN_RECORD)
    part = next(path for path in target.files() if path.endswith(".parquet"))
    target.write_bytes(part, b"x" * target.files()[part])
    assert copy(built.storage, target).files == 2
    assert target.sha256(part) == built.storage.sha256(part)


def test_a_whole_copy_that_differs_is_not_written_over(run, tmp_path):
    target = Storage(tmp_path / "there")
    copy(run.storage, target)
    assert copy(run.storage, target).files == 0
    target.write_bytes("config.resolved.json", b"{}")
    with pytest.raises(ConfigError, match=r"holds this run already and config\.resolved\.json differs there"):
        copy(run.storage, target)
    assert target.read_bytes("config.resolved.json") == b"{}"


def test_a_damaged_original_is_found_and_its_copy_is_no_run(run, tmp_path):
    part = next(path for path in run.storage.files("pool") if path.endswith(".parquet"))
    run.storage.write_bytes(part, b"damaged")
    target = Storage(tmp_path / "there")
    with pytest.raises(TapirError, match=rf"{part} did not arrive .*it is damaged in .*remove its stage's folder"):
        copy(run.storage, target)
    assert not target.exists(part)
    assert not target.exists(RUN_RECORD)


def test_nothing_else_is_written_over(run, tmp_path):
    other = build_run(tmp_path / "others", until=StageAt("pool"))
    with pytest.raises(ConfigError, match="another run of this name"):
        copy(run.storage, other.storage)
    letters = Storage(tmp_path / "letters")
    letters.write_bytes("to/mother.txt", b"dear")
    with pytest.raises(ConfigError, match=r"what the run does not have \(to/mother\.txt, 1 in all\)"):
        copy(run.storage, letters)
    assert list(letters.files()) == ["to/mother.txt"]


def test_what_is_no_run_is_not_copied(tmp_path):
    with pytest.raises(ConfigError, match="there is no run in"):
        copy(Storage(tmp_path / "nothing"), Storage(tmp_path / "there"))


def test_a_server_that_fails_on_the_way_leaves_no_run_and_is_gone_on_with(s3, run):
    target = Storage("s3://runs/a", Timeouts(silent_seconds=1, attempts=1))
    s3.faults[:] = [*[nothing] * 8, answer("503 Slow Down", "SlowDown")]
    with pytest.raises(TapirError, match="SlowDown"):
        copy(run.storage, target)
    assert not target.exists(RUN_RECORD)
    done = copy(run.storage, target)
    assert done.already_there > 0
    assert target.files() == run.storage.files()


def test_a_removed_run_leaves_nothing(run):
    run.storage.write_bytes(".results/abc", b"of Prefect")
    remove_run(run.storage)
    assert not run.storage.exists("")
