import errno
import hashlib
import os
import random

import pytest

from tapir_core.errors import ConfigError
from tapir_core.storage import Storage


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request, tmp_path):
    if request.param == "s3":
        request.getfixturevalue("s3")
        return Storage("s3://runs/of-us")
    return Storage(tmp_path if request.param == "local" else f"memory://{tmp_path.name}")


def test_what_is_written_is_read(storage):
    storage.write_bytes("a/b/file.bin", b"one")
    storage.write_bytes("a/b/file.bin", b"two")
    assert storage.read_bytes("a/b/file.bin") == b"two"
    assert storage.exists("a/b")
    assert storage.names("a/b") == ["file.bin"]


def test_a_missing_file_is_said_to_be_missing(storage):
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("nowhere")
    assert storage.names("nowhere") == []


def test_removing_takes_a_folder_with_all_it_holds_and_twice_is_once(storage):
    storage.write_bytes("a/one", b"1")
    storage.write_bytes("a/b/two", b"2")
    storage.remove("a")
    storage.remove("a")
    assert not storage.exists("a/b/two")


def test_a_removal_takes_nothing_whose_name_only_begins_alike(storage):
    storage.write_bytes("a/one", b"1")
    storage.write_bytes("ab/two", b"2")
    storage.remove("a")
    assert storage.names("") == ["ab"]


def test_files_are_listed_with_their_sizes_below_any_folder(storage):
    storage.write_bytes("b", b"123")
    storage.write_bytes("a/b/c", b"")
    assert list(storage.files().items()) == [("a/b/c", 0), ("b", 3)]
    assert storage.files("a") == {"a/b/c": 0}


def test_files_go_to_the_root_and_back_whole(storage, tmp_path_factory):
    content = random.Random(1).randbytes(100_000)
    here, back = (Storage(tmp_path_factory.mktemp(name)) for name in ("here", "back"))
    here.write_bytes("checkpoint/weights", content)
    here.send("checkpoint/weights", storage)
    assert storage.sha256("checkpoint/weights") == hashlib.sha256(content).hexdigest()
    storage.send("checkpoint/weights", back)
    assert back.read_bytes("checkpoint/weights") == content
    with pytest.raises(FileNotFoundError):
        storage.send("checkpoint/other", back)
    assert [*back.files()] == ["checkpoint/weights"]


def test_a_file_goes_from_one_remote_root_to_another(storage):
    other = Storage("memory://elsewhere")
    storage.write_bytes("a/file", b"content")
    storage.send("a/file", other)
    assert other.read_bytes("a/file") == b"content"


def test_an_unwritable_place_is_named_with_the_remedy(tmp_path):
    (tmp_path / "taken").write_text("a file where a folder is needed")
    with pytest.raises(ConfigError, match=r"taken.*run\.root"):
        Storage(tmp_path).write_bytes("taken/file", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_engines_get_no_folder_of_a_remote_root():
    with pytest.raises(ConfigError, match="not on this machine"):
        Storage("memory://bucket").local("checkpoint")


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_an_empty_one(tmp_path, monkeypatch):
    """A copy of the files that were seen would count as whole."""
    (tmp_path / "round_01").mkdir()
    (tmp_path / "run.json").write_bytes(b"{}")
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("round_01"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(OSError, match="round_01"):
        Storage(tmp_path).files()


def test_below_a_file_there_is_nothing(tmp_path):
    storage = Storage(tmp_path)
    storage.write_bytes("run.json", b"{}")
    storage.remove("run.json/below")
    assert storage.names("run.json/below") == []
    assert storage.files("run.json/below") == {}
    assert not storage.exists("run.json/below")


def test_the_folder_of_who_works_there_can_be_removed(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    storage.write_bytes("run/run.json", b"{}")
    monkeypatch.chdir(tmp_path / "run")
    storage.remove("run")
    assert not storage.exists("run")
