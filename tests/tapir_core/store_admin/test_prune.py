import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tapir_core.calls import Answer
from tapir_core.errors import ConfigError, TapirError
from tapir_core.store_admin import (
    compact,
    contents,
    open_existing,
    plan_prune,
    prune_answers,
    rows_where,
    store_size,
)
from tests.tapir_core.store_admin.store_rows import fill, numbered, reply_of, sql


def age(url: str, key: str, days: float) -> None:
    created = datetime.now(UTC) - timedelta(days=days)
    sql(url, "UPDATE answers SET created = ? WHERE key = ?", created.strftime("%Y-%m-%d %H:%M:%S.%f"), key)


def days_ago(days: float) -> datetime:
    return datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)


def keys(url: str) -> set[str]:
    return {key for (key,) in sql(url, "SELECT key FROM answers")}


def test_a_plan_says_rows_bytes_tokens_and_usd_and_changes_nothing(store_url: str):
    fill(store_url, ["a", "b"], role="judge", make_reply=lambda _: reply_of("good", usd=0.5))
    fill(store_url, ["c"], role="teach")
    (doomed,) = plan_prune(open_existing(store_url), rows_where(role=["judge"]))
    assert (doomed.role, doomed.model, doomed.identity, doomed.run) == ("judge", "fake-model", "fake-1", "a-run")
    assert (doomed.rows, doomed.tokens, doomed.usd) == (2, 30, 1.0)
    assert doomed.bytes == 2 * (len("good") + len(reply_of("good").raw or ""))
    assert len(keys(store_url)) == 3


def test_rows_go_by_age_role_model_and_identity_together(store_url: str):
    old, new = fill(store_url, ["old", "new"], role="judge")
    (other,) = fill(store_url, ["other"], role="teach")
    for request in (old, other):
        age(store_url, request.key, days=40)
    age(store_url, new.key, days=20)
    engine = open_existing(store_url)
    chosen = rows_where(role=["judge"], model=["fake-model"], identity=["fake-1"], before=days_ago(30))
    assert prune_answers(engine, chosen) == 1
    assert keys(store_url) == {new.key, other.key}
    assert prune_answers(engine, rows_where(identity=["fake-2"])) == 0


def test_answers_go_by_how_they_ended(store_url: str):
    cut_off = replace(reply_of(), outcome=Answer("I wei", "length", 10, 5))
    fill(store_url, ["cut"], make_reply=lambda _: cut_off)
    (whole,) = fill(store_url, ["whole"])
    assert prune_answers(open_existing(store_url), rows_where(finish_reason=["length"])) == 1
    assert keys(store_url) == {whole.key}


def test_many_rows_go_in_several_transactions(store_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(contents, "ROWS_PER_COMMIT", 7)
    fill(store_url, numbered(40), role="judge")
    kept = fill(store_url, numbered(40, start=40), role="teach")
    assert prune_answers(open_existing(store_url), rows_where(role=["judge"])) == 40
    assert keys(store_url) == {request.key for request in kept}


def test_pruning_everything_by_leaving_the_conditions_out_is_refused():
    with pytest.raises(ConfigError, match="--older-than"):
        rows_where(role=[], model=None, unusable=False)


def test_a_store_that_cannot_be_written_says_why(store_url: str):
    fill(store_url, ["a"])
    engine = open_existing(store_url)
    sql(store_url, "CREATE TRIGGER no BEFORE DELETE ON answers BEGIN SELECT RAISE(ABORT, 'keep out'); END")
    with pytest.raises(TapirError, match="cannot be written: keep out"):
        prune_answers(engine, rows_where(role=["teach"]))


def test_the_file_shrinks_by_what_was_removed(store_url: str, tmp_path: Path):
    fill(store_url, numbered(2000), role="judge", make_reply=lambda prompt: reply_of(prompt * 40))
    fill(store_url, numbered(10, start=2000), role="teach")
    engine = open_existing(store_url)
    prune_answers(engine, rows_where(role=["judge"]))
    done = compact(engine)
    assert done.obstacle == ""
    assert done.bytes_after < done.bytes_before / 10
    assert store_size(engine).free_bytes == 0
    assert (tmp_path / "store.sqlite").stat().st_size < 200_000
    assert len(keys(store_url)) == 10


@pytest.mark.slow
def test_a_file_that_another_process_writes_keeps_its_room(store_url: str, tmp_path: Path):
    fill(store_url, ["a"])
    engine = open_existing(store_url)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = compact(engine)
    assert "locked" in done.obstacle
    assert done.bytes_after == done.bytes_before
