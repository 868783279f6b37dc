import pytest

from tapir_core.errors import ConfigError
from tapir_core.storage import Storage


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
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


def test_an_unwritable_place_is_named_with_the_remedy(tmp_path):
    (tmp_path / "taken").write_text("a file where a folder is needed")
    with pytest.raises(ConfigError, match=r"taken.*run\.root"):
        Storage(tmp_path).write_bytes("taken/file", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_engines_get_no_folder_of_a_remote_root():
    with pytest.raises(ConfigError, match="not on this machine"):
        Storage("memory://bucket").local("checkpoint")
