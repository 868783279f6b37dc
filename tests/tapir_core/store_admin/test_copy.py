"""One store copied into another: what comes is as it was, and nothing is overwritten."""

from pathlib import Path
from typing import Any

import pytest

from tapir_core.calls.store_tables import open_engine
from tapir_core.errors import TapirError
from tapir_core.store_admin import Inserted, copy_answers, open_existing, rows
from tests.tapir_core.store_admin.store_rows import damage_file, fill, numbered, refusal, reply_of, sql


def copy(source: str, target: str) -> Inserted:
    return copy_answers(open_existing(source), open_engine(target))


def counted(done: Inserted) -> tuple[int, int, int, int]:
    return done.added, done.already_there, done.different, len(done.read.places)


def all_rows(url: str) -> list[tuple[Any, ...]]:
    return sql(url, "SELECT * FROM answers ORDER BY key")


def test_a_copied_store_is_the_same_store(store_url: str, other_url: str):
    fill(store_url, numbered(120), make_reply=lambda prompt: reply_of(f"{prompt} é \u202e 漢\n", usd=0.1))
    fill(store_url, ["refused"], make_reply=lambda _: refusal())
    assert counted(copy(store_url, other_url)) == (121, 0, 0, 0)
    assert all_rows(other_url) == all_rows(store_url)
    assert counted(copy(store_url, other_url)) == (0, 121, 0, 0)


def test_a_store_copied_into_itself_stays_as_it_is(store_url: str):
    fill(store_url, numbered(20))
    before = all_rows(store_url)
    assert counted(copy(store_url, store_url)) == (0, 20, 0, 0)
    assert all_rows(store_url) == before


def test_a_copy_that_breaks_off_goes_on_when_it_is_given_again(
    store_url: str, other_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rows, "ROWS_PER_COMMIT", 4)
    fill(store_url, numbered(10))
    open_engine(other_url).dispose()
    sql(
        other_url,
        "CREATE TRIGGER full AFTER INSERT ON answers WHEN (SELECT count(*) FROM answers) > 8 BEGIN "
        "SELECT RAISE(ABORT, 'no room'); END",
    )
    with pytest.raises(TapirError, match="cannot be written: no room"):
        copy(store_url, other_url)
    assert len(all_rows(other_url)) == 8, "what was inserted before stays"
    sql(other_url, "DROP TRIGGER full")
    assert counted(copy(store_url, other_url)) == (2, 8, 0, 0)


def test_a_store_that_cannot_be_written_fails_the_copy_with_the_reason(store_url: str, other_url: str):
    fill(store_url, numbered(1))
    target = open_engine(other_url)
    sql(other_url, "DROP TABLE answers")
    with pytest.raises(TapirError, match="cannot be written: no such table"):
        copy_answers(open_existing(store_url), target)


def test_an_empty_store_can_be_copied(store_url: str, other_url: str):
    fill(store_url, [])
    assert counted(copy(store_url, other_url)) == (0, 0, 0, 0)


def test_damaged_rows_stay_behind_and_are_named(store_url: str, other_url: str):
    fill(store_url, numbered(3))
    sql(store_url, "UPDATE answers SET text = CAST(x'c3' AS TEXT) WHERE rowid = 1")
    sql(store_url, "UPDATE answers SET prompt_tokens = -1 WHERE rowid = 2")
    done = copy(store_url, other_url)
    assert counted(done) == (1, 0, 0, 2)
    assert [row.faults for row in done.read.damaged] == [("undecodable text",), ("impossible count",)]
    assert all_rows(other_url) == sql(store_url, "SELECT * FROM answers WHERE rowid = 3")


def test_of_a_damaged_file_the_rows_that_can_be_read_are_copied(store_url: str, other_url: str, tmp_path: Path):
    fill(store_url, numbered(1000))
    damage_file(tmp_path / "store.sqlite")
    done = copy(store_url, other_url)
    assert 0 < done.added == len(all_rows(other_url)) < 1000
    assert done.read.file_faults == [f"reading stopped after {done.added} rows: database disk image is malformed"]


def test_another_reply_under_the_same_key_is_counted_listed_and_not_taken(store_url: str, other_url: str):
    (_, changed, failed) = fill(store_url, ["same", "changed", "failed"])
    fill(other_url, ["same"])
    fill(other_url, ["changed"], make_reply=lambda _: reply_of("another"))
    fill(other_url, ["failed"], make_reply=lambda _: refusal())
    before = all_rows(other_url)
    done = copy(store_url, other_url)
    assert counted(done) == (0, 1, 2, 0)
    listed = {each.key: (each.stored, each.offered) for each in done.listed}
    assert listed == {
        changed.key: ("another", "answer to changed"),
        failed.key: ("refused", "answer to failed"),
    }
    assert all_rows(other_url) == before


def test_many_other_replies_are_all_counted_and_the_first_are_spelt_out(store_url: str, other_url: str):
    fill(store_url, numbered(25), make_reply=lambda _: reply_of("one"))
    fill(other_url, numbered(25), make_reply=lambda _: reply_of("other"))
    done = copy(store_url, other_url)
    assert (done.different, len(done.listed)) == (25, 20)
