"""The same on PostgreSQL, from looking to verifying."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from tapir_core.calls import AnswerStore
from tapir_core.calls.store_tables import answers, open_engine, writing
from tapir_core.errors import MissingPrerequisite
from tapir_core.store_admin import (
    Archive,
    Exported,
    Imported,
    RowFilter,
    compact,
    delete_rows,
    export_answers,
    gather_stats,
    import_answers,
    open_existing,
    plan_prune,
    prune_answers,
    verify_store,
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

    archive = Archive(str(tmp_path / "out"))
    assert export_answers(engine, archive, RowFilter(roles=("judge",))) == Exported(300, 1, 0)
    sqlite = open_engine(f"sqlite:///{tmp_path}/store.sqlite")
    assert import_answers(sqlite, archive) == Imported(added=300)
    assert gather_stats(sqlite).groups == (replace(stats.groups[0], reused=0),)

    (doomed,) = plan_prune(engine, RowFilter(roles=("judge",)))
    assert (doomed.rows, doomed.tokens, doomed.usd) == (300, 4500, 150.0)
    assert doomed.bytes == stats.groups[0].bytes
    assert prune_answers(engine, RowFilter(roles=("judge",))) == 300
    assert "VACUUM FULL" in compact(engine).obstacle
    assert import_answers(engine, archive) == Imported(added=300)
    assert is_sound(verify_store(engine))

    with writing(engine) as connection:
        some = [row.key for row in connection.execute(answers.select().where(answers.c.role == "judge").limit(2))]
        connection.execute(update(answers).where(answers.c.key == some[0]).values(text="forged"))
        connection.execute(update(answers).where(answers.c.key == some[1]).values(prompt_tokens=-1))
    found = verify_store(engine)
    assert found.faults == {"reply gives another text": 1, "impossible count": 1}
    assert delete_rows(engine, found.places) == 2
    assert verify_store(engine).rows == 299
    with AnswerStore(postgres_url) as store:
        assert store.known(some) == set()
    engine.dispose()
    sqlite.dispose()
