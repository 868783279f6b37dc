from pathlib import Path

import pytest

from tapir_core.calls import root_store_url
from tapir_core.errors import ConfigError, MissingPrerequisite, TapirError
from tapir_core.store_admin import check_store, gather_stats, open_existing
from tests.tapir_core.store_admin.store_rows import fill, numbered, sql


def test_a_store_that_is_not_there_is_said_to_be_missing_and_is_not_made(tmp_path: Path):
    with pytest.raises(MissingPrerequisite, match=r"there is no call store at sqlite:///.*--root"):
        open_existing(root_store_url(str(tmp_path / "runs")))
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_something_else_is_left_as_it_is(store_url: str):
    sql(store_url, "CREATE TABLE photos (name TEXT)")
    with pytest.raises(MissingPrerequisite, match="no call store"):
        open_existing(store_url)
    assert sql(store_url, "SELECT name FROM sqlite_master") == [("photos",)]


def test_a_file_that_is_no_database_is_named(tmp_path: Path):
    (tmp_path / "store.sqlite").write_bytes(b"not a database at all, and long enough to look" * 40)
    with pytest.raises(MissingPrerequisite, match=r"store\.sqlite.*not a database"):
        open_existing(f"sqlite:///{tmp_path}/store.sqlite")


@pytest.mark.parametrize("url", ["not a url", "mysql://me:hunter2@host/db"])
def test_an_unsupported_url_is_refused_without_its_password(url: str):
    with pytest.raises(ConfigError, match="sqlite:///path") as raised:
        open_existing(url)
    assert "hunter2" not in str(raised.value)


def test_a_server_that_is_not_there_is_named_without_its_password():
    with pytest.raises(MissingPrerequisite, match=r"127\.0\.0\.1") as raised:
        open_existing("postgresql://me:hunter2@127.0.0.1:1/tapir")
    assert "hunter2" not in str(raised.value)


def test_a_store_that_cannot_be_read_names_the_command_that_looks_for_the_damage(store_url: str):
    fill(store_url, numbered(1))
    engine = open_existing(store_url)
    sql(store_url, "ALTER TABLE answers RENAME COLUMN usd TO eur")
    with pytest.raises(TapirError, match="tapir store stats --check"):
        gather_stats(engine)
    assert "no such column" in check_store(engine).file_faults[0]
