from collections.abc import Callable
from pathlib import Path

import pytest

from tapir_core.calls import Answer, AnswerStore, CallEngine
from tapir_core.calls.store_tables import open_engine
from tapir_core.calls.wire import Reply
from tapir_core.config import CallsConfig
from tapir_core.errors import TapirError
from tapir_core.store_admin import (
    check_store,
    copy_answers,
    delete_rows,
    gather_stats,
    open_existing,
    prune_answers,
    rows,
    rows_where,
)
from tests.doubles.provider import FakeProvider, Text, make_request
from tests.tapir_core.store_admin.store_rows import damage_file, fill, is_sound, numbered, refusal, sql


def test_what_a_provider_said_is_sound_whatever_it_said(store_url: str):
    hostile = ["\ud800 lone", "nul \x00 inside", "\u202e right to left", "", "x" * 200_000, '{"score": 10}']
    with FakeProvider(lambda call: Text(hostile[int(call.prompt)])) as provider:
        engine = CallEngine(AnswerStore(store_url), CallsConfig(), run="a-run")
        with engine:
            engine.ask([make_request(str(number)) for number in range(len(hostile))], provider.endpoint)
    found = check_store(open_existing(store_url))
    assert is_sound(found)
    assert (found.rows, found.without_reply, found.damaged) == (6, 0, [])


DAMAGE = {
    "key is no sha256": "UPDATE answers SET key = 'short' WHERE rowid = 1",
    "unknown status": "UPDATE answers SET status = 'fine' WHERE rowid = 1",
    "undecodable text": "UPDATE answers SET text = CAST(x'66c3' AS TEXT) WHERE rowid = 1",
    "reply gives another text": "UPDATE answers SET text = 'forged' WHERE rowid = 1",
    "impossible count": "UPDATE answers SET completion_tokens = -5 WHERE rowid = 1",
    "unreadable time": "UPDATE answers SET created = 'noon' WHERE rowid = 1",
}


@pytest.mark.parametrize(("fault", "damage"), DAMAGE.items(), ids=DAMAGE)
def test_a_row_that_was_damaged_is_found_and_only_that_one_is_removed(store_url: str, fault: str, damage: str):
    requests = fill(store_url, numbered(5))
    sql(store_url, damage)
    engine = open_existing(store_url)
    found = check_store(engine)
    assert not is_sound(found)
    assert found.faults == {fault: 1}
    assert [row.faults for row in found.damaged] == [(fault,)]
    assert delete_rows(engine, found.places) == 1
    assert is_sound(check_store(engine))
    with AnswerStore(store_url) as store:
        assert store.known([request.key for request in requests]) == {request.key for request in requests[1:]}


def test_a_key_and_a_model_that_are_no_text_can_be_shown_and_removed(store_url: str):
    fill(store_url, numbered(2))
    sql(store_url, "UPDATE answers SET key = x'ff00', model = CAST(x'41ff' AS TEXT) WHERE rowid = 2")
    engine = open_existing(store_url)
    found = check_store(engine)
    assert (found.damaged[0].key, found.damaged[0].model) == ("b'\\xff\\x00'", "A\\udcff")
    assert found.damaged[0].faults == ("key is no sha256", "undecodable text")
    assert delete_rows(engine, found.places) == 1
    assert gather_stats(engine).rows == 1


def test_a_removed_row_is_asked_again(store_url: str):
    requests = fill(store_url, numbered(3))
    sql(store_url, DAMAGE["reply gives another text"])
    engine = open_existing(store_url)
    delete_rows(engine, check_store(engine).places)
    with FakeProvider() as provider, CallEngine(AnswerStore(store_url), CallsConfig(), run="a-run") as calls:
        calls.ask(requests, provider.endpoint)
        assert len(provider.calls) == 1


def test_all_damaged_rows_are_counted_and_the_first_are_listed(store_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows, "LISTED", 4)
    monkeypatch.setattr(rows, "ROWS_PER_COMMIT", 3)
    fill(store_url, numbered(20))
    sql(store_url, "UPDATE answers SET usd = -1 WHERE rowid <= 10")
    engine = open_existing(store_url)
    found = check_store(engine)
    assert (len(found.places), len(found.damaged), found.rows) == (10, 4, 20)
    assert delete_rows(engine, found.places) == 10


def test_an_answer_without_its_raw_reply_is_counted_and_not_called_damaged(store_url: str):
    fill(store_url, numbered(2))
    fill(store_url, ["refused"], make_reply=lambda _: refusal())
    sql(store_url, "UPDATE answers SET raw = NULL")
    found = check_store(open_existing(store_url))
    assert is_sound(found)
    assert found.without_reply == 2


def test_a_damaged_file_is_told_with_the_rows_that_could_be_read(store_url: str, tmp_path: Path):
    fill(store_url, numbered(400))
    damage_file(tmp_path / "store.sqlite")
    found = check_store(open_existing(store_url))
    assert not is_sound(found)
    assert found.file_faults


def test_a_row_that_was_replaced_meanwhile_is_not_removed(store_url: str):
    fill(store_url, numbered(3))
    sql(store_url, DAMAGE["impossible count"])
    engine = open_existing(store_url)
    found = check_store(engine)
    sql(store_url, "DELETE FROM answers WHERE rowid = 1")
    sql(store_url, "UPDATE answers SET rowid = rowid - 1")
    assert delete_rows(engine, found.places) == 0
    assert gather_stats(engine).rows == 2


def test_rows_that_cannot_be_removed_say_so(store_url: str):
    fill(store_url, numbered(1))
    sql(store_url, DAMAGE["impossible count"])
    sql(store_url, "CREATE TRIGGER no BEFORE DELETE ON answers BEGIN SELECT RAISE(ABORT, 'keep out'); END")
    engine = open_existing(store_url)
    with pytest.raises(TapirError, match="keep out"):
        delete_rows(engine, check_store(engine).places)


def of_tokens(raw: str) -> Callable[[str], Reply]:
    return lambda _: Reply(Answer("", "stop", 10, 5), raw=raw)


TOKENS = '{"tapir_tokens":[[1,2],[3],[-0.5],[[[3,-0.5],[4,-1.5]]]]}'


def test_scores_and_rollouts_are_sound_are_copied_and_are_not_unusable(store_url: str, tmp_path: Path):
    for role in ("rollout", "score"):
        fill(store_url, [role], role=role, make_reply=of_tokens(TOKENS))
    fill(store_url, ["empty"], make_reply=of_tokens('{"choices": []}'))
    engine = open_existing(store_url)
    assert check_store(engine).faults == {"reply gives another text": 1}
    there = open_engine(f"sqlite:///{tmp_path / 'copy.sqlite'}")
    assert copy_answers(engine, there).added == 2
    prune_answers(engine, rows_where(unusable=True))
    assert gather_stats(engine).rows == 2


@pytest.mark.parametrize("raw", ['{"tapir_tokens":[[1', '{"tapir_tokens":[[1]]}', '{"tapir_tokens":7}'])
def test_tokens_that_cannot_be_read_are_damaged(store_url: str, raw: str):
    fill(store_url, ["a"], role="score", make_reply=of_tokens(raw))
    assert check_store(open_existing(store_url)).faults == {"reply gives another text": 1}
