"""Export and import: what goes out comes back as it was, and nothing is overwritten."""

import hashlib
import uuid
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from tapir_core.calls.store_tables import answers, open_engine
from tapir_core.errors import ConfigError, TapirError
from tapir_core.store_admin import (
    Archive,
    Exported,
    Imported,
    RowFilter,
    export_answers,
    open_existing,
    transfer,
)
from tapir_core.store_admin.transfer import SCHEMA
from tests.tapir_core.store_admin.exports import all_rows, export, import_into, manifest_of
from tests.tapir_core.store_admin.store_rows import fill, numbered, refusal, reply_of, sql


def test_the_columns_of_an_export_are_those_of_the_table():
    assert SCHEMA.names() == [column.name for column in answers.columns]


@pytest.mark.parametrize("place", ["{tmp_path}/out", "file://{tmp_path}/out", "memory://{unique}/out"])
def test_a_store_that_is_exported_and_imported_is_the_same_store(
    store_url: str, other_url: str, tmp_path: Path, place: str
):
    fill(store_url, numbered(120), make_reply=lambda prompt: reply_of(f"{prompt} é \u202e 漢\n", usd=0.1))
    fill(store_url, ["refused"], make_reply=lambda _: refusal())
    place = place.format(tmp_path=tmp_path, unique=uuid.uuid4().hex)
    assert export(store_url, place) == Exported(121, 1, 0)
    assert import_into(other_url, place) == Imported(added=121)
    assert all_rows(other_url) == all_rows(store_url)
    assert import_into(other_url, place) == Imported(already_there=121)


def test_the_manifest_lists_every_part_with_rows_digest_and_schema_version(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transfer, "PART_ROWS", 50)
    fill(store_url, numbered(120))
    told: list[int] = []
    place = tmp_path / "out"
    export_answers(open_existing(store_url), Archive(str(place)), RowFilter(), on_part=told.append)
    manifest = manifest_of(place)
    assert told == [50, 100, 120]
    assert [part["rows"] for part in manifest["parts"]] == [50, 50, 20]
    assert (manifest["rows"], manifest["format"], manifest["schema_version"]) == (120, "tapir answers", "1")
    for part in manifest["parts"]:
        assert hashlib.sha256((place / part["name"]).read_bytes()).hexdigest() == part["sha256"]
    frame = pl.read_parquet(place / "part-*.parquet")
    assert frame.schema == SCHEMA
    assert frame["key"].n_unique() == 120


def test_a_part_ends_when_its_text_is_long(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transfer, "PART_BYTES", 50_000)
    fill(store_url, numbered(10), make_reply=lambda prompt: reply_of(prompt * 3000))
    assert export(store_url, tmp_path / "out").parts == 10


def test_equal_rows_give_equal_parts(store_url: str, other_url: str, tmp_path: Path):
    fill(store_url, numbered(30))
    export(store_url, tmp_path / "one")
    import_into(other_url, tmp_path / "one")
    export(other_url, tmp_path / "two")
    assert manifest_of(tmp_path / "one")["parts"] == manifest_of(tmp_path / "two")["parts"]


def test_only_what_is_chosen_is_exported_and_the_manifest_says_what(store_url: str, tmp_path: Path):
    fill(store_url, ["a", "b"], role="teach", run="one")
    fill(store_url, ["c"], role="judge", run="one", model="strict")
    fill(store_url, ["d"], role="judge", run="two")
    assert export(store_url, tmp_path / "roles", RowFilter(roles=("judge",))).rows == 2
    assert export(store_url, tmp_path / "models", RowFilter(models=("strict",))).rows == 1
    assert export(store_url, tmp_path / "runs", RowFilter(("judge",), runs=("one", "two"))).rows == 2
    assert manifest_of(tmp_path / "models")["chosen"] == {"models": ["strict"]}


def test_rows_are_chosen_from_a_moment_on_and_up_to_another(store_url: str, tmp_path: Path):
    fill(store_url, numbered(2))
    sql(store_url, "UPDATE answers SET created = '2026-11-01 00:00:00.000000' WHERE text LIKE '%question 0'")
    second = datetime(2026, 11, 1, 0, 0, 1)
    assert export(store_url, tmp_path / "old", RowFilter(before=second)).rows == 1
    assert export(store_url, tmp_path / "new", RowFilter(since=second)).rows == 1
    assert export(store_url, tmp_path / "all", RowFilter(since=datetime(2026, 11, 1))).rows == 2


def test_an_import_goes_in_several_transactions(
    store_url: str, other_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transfer, "ROWS_PER_COMMIT", 4)
    fill(store_url, numbered(10))
    export(store_url, tmp_path / "out")
    open_engine(other_url).dispose()
    sql(
        other_url,
        "CREATE TRIGGER full AFTER INSERT ON answers WHEN (SELECT count(*) FROM answers) > 8 BEGIN "
        "SELECT RAISE(ABORT, 'no room'); END",
    )
    with pytest.raises(TapirError, match="cannot be written: no room"):
        import_into(other_url, tmp_path / "out")
    assert len(all_rows(other_url)) == 8, "what was inserted before stays"
    sql(other_url, "DROP TRIGGER full")
    assert import_into(other_url, tmp_path / "out") == Imported(added=2, already_there=8)


def test_many_other_replies_are_all_counted_and_the_first_are_spelt_out(store_url: str, other_url: str, tmp_path: Path):
    fill(store_url, numbered(25), make_reply=lambda _: reply_of("one"))
    fill(other_url, numbered(25), make_reply=lambda _: reply_of("other"))
    export(store_url, tmp_path / "out")
    done = import_into(other_url, tmp_path / "out")
    assert (done.different, len(done.listed)) == (25, 20)


def test_an_export_of_nothing_is_whole(store_url: str, other_url: str, tmp_path: Path):
    fill(store_url, [])
    assert export(store_url, tmp_path / "out") == Exported(0, 0, 0)
    assert import_into(other_url, tmp_path / "out") == Imported()


def test_damaged_rows_stay_behind_and_are_counted(store_url: str, tmp_path: Path):
    fill(store_url, numbered(3))
    sql(store_url, "UPDATE answers SET text = CAST(x'c3' AS TEXT) WHERE rowid = 1")
    sql(store_url, "UPDATE answers SET prompt_tokens = -1 WHERE rowid = 2")
    assert export(store_url, tmp_path / "out") == Exported(1, 1, 2)


def test_a_place_that_holds_something_is_refused(store_url: str, tmp_path: Path):
    fill(store_url, numbered(1))
    export(store_url, tmp_path / "out")
    with pytest.raises(ConfigError, match="holds an export already"):
        export(store_url, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"letter\.txt"):
        export(store_url, tmp_path / "mine")


def test_what_an_interrupted_export_left_is_replaced(store_url: str, tmp_path: Path):
    fill(store_url, numbered(2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-0123456789abcdef.parquet").write_bytes(b"whole")
    (tmp_path / "out" / ".part-fedcba9876543210.parquet.0a1b2c3d").write_bytes(b"half")
    export(store_url, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_place_that_cannot_be_written_is_named(store_url: str, tmp_path: Path):
    fill(store_url, numbered(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        export(store_url, tmp_path / "file" / "out")
    with pytest.raises(ConfigError, match="nonsense"):
        Archive("nonsense://out")


def test_another_reply_under_the_same_key_is_counted_listed_and_not_taken(
    store_url: str, other_url: str, tmp_path: Path
):
    (_, changed, failed) = fill(store_url, ["same", "changed", "failed"])
    fill(other_url, ["same"])
    fill(other_url, ["changed"], make_reply=lambda _: reply_of("another"))
    fill(other_url, ["failed"], make_reply=lambda _: refusal())
    export(store_url, tmp_path / "out")
    before = all_rows(other_url)
    done = import_into(other_url, tmp_path / "out")
    assert (done.added, done.already_there, done.different) == (0, 1, 2)
    listed = {each.key: (each.stored, each.offered) for each in done.listed}
    assert listed == {
        changed.key: ("another", "answer to changed"),
        failed.key: ("refused", "answer to failed"),
    }
    assert all_rows(other_url) == before
