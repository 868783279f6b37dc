"""One commit of many kinds of writes: what came is stored and settled first, and nothing counts twice."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import Connection, Engine, select

from tapir_core.calls import Answer, Spend
from tapir_core.calls.budget import LOST_HOLD, Attempt, Settlement
from tapir_core.calls.store_rows import make_row, read_reuse, read_spend
from tapir_core.calls.store_tables import answers, batch_rows, batches, holders, open_engine, read_known, shards
from tapir_core.calls.store_writes import (
    LOST,
    Book,
    Change,
    Put,
    add_seconds,
    adopt_batches,
    beat,
    commit,
    count_reuse,
    end_batch,
    forget,
    give_shard_back,
    leave,
    leave_batch,
    take_shard,
)
from tapir_core.calls.wire import Reply
from tapir_core.config import BudgetConfig
from tests.doubles.provider import make_request
from tests.tapir_core.calls.batch_helpers import plan_batch


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    engine = open_engine(store_url)
    yield engine
    engine.dispose()


def put(key: str, text: str = "fine", *, role: str = "teach") -> Put:
    answer = Answer(text, "stop", 10, 5, 0.25)
    reply = Reply(answer, Spend(2, 10, 5, 0.25))
    return Put(make_row(key, make_request(role=role), reply), answer)


def take(shard: str) -> Change:
    return partial(take_shard, shard=shard)


def work(role: str, seconds: float) -> Change:
    return partial(add_seconds, run="a-run", role=role, seconds=seconds)


def reused(role: str, run: str, requests: int) -> Change:
    return partial(count_reuse, counts={(role, "a-model", "an identity", "v1", run): requests})


def book(attempt: int, **caps: float) -> Book:
    wanted = Attempt(attempt, "a-run", "teach", f"key {attempt}", Spend(1, 10, 5, 0.5))
    return Book((wanted,), BudgetConfig.model_validate(caps))


def settle(attempt: int, spent: Spend | None) -> Settlement:
    return Settlement(attempt, "answer", spent)


def held(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        return dict(connection.execute(select(shards.c.shard, shards.c.holder)).tuples().all())


def spent(engine: Engine) -> dict[str, Spend]:
    with engine.connect() as connection:
        return read_spend(connection, "a-run")


def test_each_write_has_its_own_result_in_its_own_place(engine: Engine):
    commit(engine, "me", [put("a", "early"), book(1)])
    writes = [
        take("c"),
        put("b"),
        book(2, requests=2),
        beat,
        put("a", "late"),
        partial(give_shard_back, shard="c"),
        book(3, requests=2),
        put("d"),
        settle(1, Spend(1)),
        partial(forget, keys=("a", "x")),
    ]
    taken, b, second, alive, a, released, third, d, settled, forgotten = commit(engine, "me", writes)
    assert taken is True
    assert [b, d] == [put("b").outcome, put("d").outcome]
    assert (a.text, a.stored) == ("early", True)
    assert second == [""]
    assert "budget.requests = 2 is reached" in third[0]
    assert (alive, released, settled, forgotten) == (None, None, None, 1)


def test_a_booking_sees_what_its_own_commit_brings(engine: Engine):
    commit(engine, "me", [book(1)])
    refusal, *_ = commit(engine, "me", [book(2, usd=0.5), settle(1, Spend(1, usd=0.0))])
    assert refusal == [""]


def test_of_lists_that_are_lost_nothing_is_booked_and_of_others_everything(engine: Engine):
    commit(engine, "me", [take("a"), take("b")])
    commit(engine, "you", [partial(leave_for, who="me"), take("a")])
    wanted = [replace(book(number).attempts[0], shard=shard) for number, shard in enumerate(["a", "", "b", "a"])]
    commit(engine, "me", [take("b")])
    (refusals,) = commit(engine, "me", [Book(tuple(wanted), BudgetConfig())])
    assert refusals == [LOST_HOLD, "", "", LOST_HOLD]
    assert spent(engine)["teach"].requests == 2


def leave_for(connection: Connection, _: str, __: bool, *, who: str) -> None:
    leave(connection, who)


def test_a_commit_spends_what_its_attempts_cost_and_the_time_that_was_worked(engine: Engine):
    commit(engine, "me", [book(1), book(2), work("teach", 1.5), work("judge", 0.5)])
    assert spent(engine) == {"judge": Spend(seconds=0.5), "teach": Spend(2, 20, 10, 1.0, 1.5)}
    commit(engine, "me", [settle(1, Spend(1, 7, 3, 0.25)), settle(2, None), put("a")])
    assert spent(engine)["teach"] == Spend(2, 17, 8, 0.75, 1.5), "an answer costs what its attempt costs, and no more"


def test_requests_that_the_store_answered_are_added_up(engine: Engine):
    once = [reused("teach", "a-run", 1), reused("teach", "b-run", 1)]
    commit(engine, "me", [*once, reused("judge", "a-run", 1), *once])
    with engine.connect() as connection:
        found = read_reuse(connection)
    assert {role: requests for (role, *_), requests in found.items()} == {"judge": 1, "teach": 4}


def test_the_same_again_after_a_commit_whose_end_nobody_knows_changes_nothing(engine: Engine):
    rows = {"in a batch": make_request(role="teach")}
    writes = [
        take("a"),
        put("b"),
        book(1, requests=2),
        plan_batch("a-batch", "http://127.0.0.1:9/v1", rows, budget=BudgetConfig(requests=2)),
        partial(give_shard_back, shard="a"),
    ]
    first = commit(engine, "me", writes)
    again = commit(engine, "me", writes, repeated=True)
    assert again[1:4] == [*first[1:3], {}]
    assert spent(engine)["teach"].requests == 2
    (taken,) = commit(engine, "you", [partial(adopt_batches, keys=("in a batch",))], repeated=True)
    assert taken == [], "it is led by somebody else who lives"
    commit(engine, "me", [partial(leave_batch, tag="a-batch")])
    for repeated in (False, True):
        ((adopted,),) = commit(engine, "you", [partial(adopt_batches, keys=("in a batch",))], repeated=repeated)
        assert (adopted.tag, list(adopted.rows)) == ("a-batch", ["in a batch"])


def test_what_becomes_of_one_batch_touches_no_other(engine: Engine):
    for number, tag in enumerate("abc"):
        rows = {f"key {tag}": make_request(tag, role="teach")}
        commit(engine, "me", [plan_batch(tag, "http://127.0.0.1:9/v1", rows, tokens=10, first=number)])

    def standing() -> dict[str, tuple[str, str]]:
        with engine.connect() as connection:
            found = connection.execute(select(batches.c.tag, batches.c.state, batches.c.driver))
            return {row.tag: (row.state, row.driver) for row in found}

    commit(engine, "me", [partial(end_batch, tag="b", state="completed")])
    assert spent(engine)["teach"] == Spend(2, 20), "what it owed is free"
    with engine.connect() as connection:
        assert read_known(connection, ["key a", "key b", "key c"], batch_rows.c.key) == {"key a", "key c"}
    assert standing() == {"a": ("planned", "me"), "b": ("completed", ""), "c": ("planned", "me")}
    commit(engine, "me", [partial(leave_batch, tag="c")])
    commit(engine, "you", [partial(leave_batch, tag="a")])
    assert standing() == {"a": ("planned", "me"), "b": ("completed", ""), "c": ("planned", "")}
    commit(engine, "me", [partial(end_batch, tag="a", state=LOST)])
    assert spent(engine)["teach"] == Spend(2, 20), "what a lost batch cost stays unknown"


def test_who_leaves_holds_nothing_any_more(engine: Engine):
    commit(engine, "me", [take("a")])
    commit(engine, "you", [take("b")])
    commit(engine, "me", [leave])
    assert held(engine) == {"b": "you"}
    with engine.connect() as connection:
        assert connection.execute(select(holders.c.id)).scalars().all() == ["you"]


def test_a_commit_that_fails_leaves_nothing_of_itself(engine: Engine):
    broken = Put({"key": "b"}, put("b").outcome)
    with pytest.raises(Exception, match="b"):
        commit(engine, "me", [put("a"), book(1), broken])
    with engine.connect() as connection:
        assert read_known(connection, ["a", "b"], answers.c.key) == set()
    assert spent(engine) == {}
