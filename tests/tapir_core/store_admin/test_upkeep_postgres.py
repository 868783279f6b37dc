"""The same on PostgreSQL, from statistics to the check."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from tapir_core.calls import AnswerStore
from tapir_core.calls.store_tables import answers, open_engine, writing
from tapir_core.errors import MissingPrerequisite
from tapir_core.store_admin import (
    check_store,
    compact,
    copy_answers,
    delete_rows,
    gather_stats,
    open_existing,
    plan_prune,
    prune_answers,
    rows_where,
)
from tests.postgres_server import needs_postgres
from tests.tapir_core.calls.test_postgres import postgres_url
from tests.tapir_core.store_admin.store_rows import fill, is_sound, numbered, refusal, reply_of

__all__ = ["postgres_url"]

pytestmark = needs_postgres


def test_a_store_is_looked_at_moved_shrunk_and_checked_on_postgresql(postgres_url: str, tmp_path: Path):
    with pytest.raises(MissingPrerequisite, match="no call store"):
        open_existing(postgres_url)

    requests = fill(
        postgres_url, numbered(300), role="judge", make_reply=lambda prompt: reply_of(f"{prompt} é \\ 漢", usd=0.5)
    )
    fill(postgres_url, ["refused"], role="teach", make_reply=lambda _: refusal())
    with AnswerStore(postgres_url) as store:
        for _ in range(2):
            store.count_reuse(requests).result(timeout=30)
    engine = open_existing(postgres_url)
    stats = gather_stats(engine)
    assert [group.reused for group in stats.groups] == [600, 0]
    assert [(group.role, group.rows, group.usd) for group in stats.groups] == [("judge", 300, 150.0), ("teach", 1, 0)]
    assert stats.size.bytes > 0
    assert stats.groups[0].first <= stats.groups[0].last

    sqlite = open_engine(f"sqlite:///{tmp_path}/store.sqlite")
    assert copy_answers(engine, sqlite).added == 301
    assert gather_stats(sqlite).groups == tuple(replace(group, reused=0) for group in stats.groups)

    (doomed,) = plan_prune(engine, rows_where(role=["judge"]))
    assert (doomed.rows, doomed.tokens, doomed.usd) == (300, 4500, 150.0)
    assert doomed.bytes == stats.groups[0].bytes
    assert prune_answers(engine, rows_where(role=["judge"])) == 300
    assert "VACUUM FULL" in compact(engine).obstacle
    back = copy_answers(sqlite, engine)
    assert (back.added, back.already_there) == (300, 1)
    assert is_sound(check_store(engine))

    with writing(engine) as connection:
        some = [row.key for row in connection.execute(answers.select().where(answers.c.role == "judge").limit(2))]
        connection.execute(update(answers).where(answers.c.key == some[0]).values(text="forged"))
        connection.execute(update(answers).where(answers.c.key == some[1]).values(prompt_tokens=-1))
    found = check_store(engine)
    assert found.faults == {"reply gives another text": 1, "impossible count": 1}
    assert delete_rows(engine, found.places) == 2
    assert check_store(engine).rows == 299
    with AnswerStore(postgres_url) as store:
        assert store.known(some) == set()
    engine.dispose()
    sqlite.dispose()
