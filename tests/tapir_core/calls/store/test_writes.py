"""One commit of many kinds of writes: what came is settled before claims are looked at, and nothing counts twice."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select

from tapir_core.calls import Answer, Spend
from tapir_core.calls.budget import Reservation
from tapir_core.calls.endpoints.wire import Reply
from tapir_core.calls.fakes import make_request
from tapir_core.calls.store.answer_rows import make_row, read_known
from tapir_core.calls.store.claim_rows import State, read_spend
from tapir_core.calls.store.reuse_rows import count_asked, read_reuse
from tapir_core.calls.store.tables import claims, holders, open_engine
from tapir_core.calls.store.writes import Beat, Claim, Forget, Leave, Put, Release, Reuse, Wanted, commit
from tapir_core.config import BudgetConfig


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    engine = open_engine(store_url)
    yield engine
    engine.dispose()


def put(key: str, text: str = "fine", *, role: str = "teach") -> Put:
    answer = Answer(text, "stop", 10, 5, 0.25)
    reply = Reply(answer, attempts=2, prompt_tokens=10, completion_tokens=5, usd=0.25)
    return Put(make_row(key, make_request(role=role), reply), answer)


def release(key: str | None, spent: Spend, *, role: str = "teach") -> Release:
    return Release(key, "a-run", role, spent)


def claim(*keys: str, **caps: float) -> Claim:
    wanted = tuple(Wanted(key, "a-run", "teach", Reservation(10)) for key in keys)
    return Claim(wanted, BudgetConfig.model_validate(caps))


def states(grants: list) -> list[State]:
    return [grant.state for grant in grants]


def claimed(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        return dict(connection.execute(select(claims.c.key, claims.c.holder)).tuples().all())


def spent(engine: Engine) -> dict[str, Spend]:
    with engine.connect() as connection:
        return read_spend(connection, "a-run")


def test_each_write_has_its_own_result_in_its_own_place(engine: Engine):
    commit(engine, "me", [put("a", "early")])
    writes = [claim("c"), put("b"), Beat(), put("a", "late"), release("c", Spend()), put("d"), Forget(("a", "x"))]
    grants, b, beat, a, released, d, forgotten = commit(engine, "me", writes)
    assert states(grants) == [State.OURS]
    assert [b, d] == [put("b").outcome, put("d").outcome]
    assert (a.text, a.stored) == ("early", True)
    assert (beat, released, forgotten) == (None, None, 1)


def test_a_claim_sees_what_its_own_commit_settles(engine: Engine):
    commit(engine, "me", [claim("a", "b")])
    grants, *_ = commit(engine, "you", [claim("a", "b", requests=3), put("a"), release("b", Spend(1))])
    assert states(grants) == [State.ANSWERED, State.OVER]
    assert claimed(engine) == {}


def test_a_commit_spends_by_role_what_each_of_its_writes_cost(engine: Engine):
    cost = Spend(2, 10, 5, 0.25)
    commit(
        engine,
        "me",
        [put("a"), put("b"), put("c", role="judge"), release("d", Spend(3, seconds=1.5)), release(None, Spend())],
    )
    assert spent(engine) == {"judge": cost, "teach": cost + cost + Spend(3, seconds=1.5)}
    commit(engine, "me", [release("x", Spend(), role="label")])
    assert list(spent(engine)) == ["judge", "teach"], "what costs nothing leaves no row"


def test_requests_that_the_store_answered_are_added_up(engine: Engine):
    once = Reuse(count_asked([make_request("a"), make_request("b", run="b-run")]))
    commit(engine, "me", [once, Reuse(count_asked([make_request("a", role="judge")])), once])
    with engine.connect() as connection:
        found = read_reuse(connection)
    assert {role: requests for (role, *_), requests in found.items()} == {"judge": 1, "teach": 4}


def test_what_ends_without_a_key_ends_no_claim(engine: Engine):
    commit(engine, "me", [claim("a", "b")])
    commit(engine, "me", [release(None, Spend(seconds=1.0)), release("b", Spend())])
    assert claimed(engine) == {"a": "me"}


def test_who_leaves_takes_its_own_claims_along(engine: Engine):
    commit(engine, "me", [claim("a")])
    commit(engine, "you", [claim("b")])
    commit(engine, "me", [Leave()])
    assert claimed(engine) == {"b": "you"}
    with engine.connect() as connection:
        assert connection.execute(select(holders.c.id)).scalars().all() == ["you"]


def test_a_commit_that_fails_leaves_nothing_of_itself(engine: Engine):
    broken = Put({"key": "b"}, put("b").outcome)
    with pytest.raises(Exception, match="b"):
        commit(engine, "me", [put("a"), release(None, Spend(7)), broken])
    with engine.connect() as connection:
        assert read_known(connection, ["a", "b"]) == set()
    assert spent(engine) == {}
