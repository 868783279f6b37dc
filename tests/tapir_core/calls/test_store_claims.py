"""Claims in one transaction each: who may send what, and who ends a claim."""

from collections.abc import Iterator
from datetime import datetime

import pytest
from sqlalchemy import Connection, insert, select, update

from tapir_core.calls.store_tables import batches, claims, holders, open_engine, writing
from tapir_core.calls.store_writes import beat, claim, leave, release
from tapir_core.calls.types import Claimed


@pytest.fixture
def connection(store_url: str) -> Iterator[Connection]:
    engine = open_engine(store_url)
    with writing(engine) as connection:
        yield connection
    engine.dispose()


def claimed(connection: Connection, keys: str, holder: str = "me") -> list[Claimed]:
    return claim(connection, holder, False, keys=tuple(keys))


def test_a_claim_of_ours_may_be_claimed_again_and_anothers_may_not(connection: Connection):
    assert claimed(connection, "a") == [Claimed.OURS]
    assert claimed(connection, "ab") == [Claimed.OURS, Claimed.OURS]
    assert claimed(connection, "ab", "you") == [Claimed.ELSEWHERE, Claimed.ELSEWHERE]


def test_releasing_ends_the_claims_that_are_named_and_no_other(connection: Connection):
    claimed(connection, "abc")
    release(connection, "me", [])
    release(connection, "me", ["a", "b", "unknown"])
    assert claimed(connection, "abc", "you") == [Claimed.OURS, Claimed.OURS, Claimed.ELSEWHERE]


def test_releasing_leaves_the_claim_of_another_holder(connection: Connection):
    claimed(connection, "a", "you")
    release(connection, "me", ["a"])
    assert claimed(connection, "a", "they") == [Claimed.ELSEWHERE], "it would be sent, and paid, twice"


@pytest.mark.parametrize(("driver", "left"), [("me", []), ("you", ["a"])])
def test_who_leads_a_batch_ends_the_claims_that_it_holds(connection: Connection, driver: str, left: list[str]):
    texts = dict.fromkeys(["state", "run", "role", "model", "identity", "address", "input_file_id", "provider_id"], "")
    row = {"tag": "a-batch", "driver": driver, **texts, "rows": 1, "created": datetime(2026, 1, 1)}
    connection.execute(insert(batches).values(row))
    connection.execute(insert(claims).values(key="a", holder="a-batch"))
    release(connection, "me", ["a"])
    assert connection.execute(select(claims.c.key)).scalars().all() == left


@pytest.mark.parametrize(("gone", "stays"), [("me", "you"), ("you", "me")])
def test_a_holder_that_goes_leaves_the_claims_of_others(connection: Connection, gone: str, stays: str):
    claimed(connection, "a", stays)
    claimed(connection, "b", gone)
    leave(connection, gone)
    assert connection.execute(select(holders.c.id)).scalars().all() == [stays]
    assert claimed(connection, "ab", "they") == [Claimed.ELSEWHERE, Claimed.OURS]


def die(connection: Connection, holder: str) -> None:
    """Its process number belongs to another process from now on."""
    gone = {"process_started": holders.c.process_started - 100}
    connection.execute(update(holders).where(holders.c.id == holder).values(gone))


def test_who_is_gone_loses_its_claims_and_who_is_here_keeps_them(connection: Connection):
    claimed(connection, "a", "you")
    claimed(connection, "b", "gone")
    die(connection, "gone")
    assert claimed(connection, "ab") == [Claimed.ELSEWHERE, Claimed.OURS]


def test_who_was_taken_for_dead_and_goes_on_claiming_can_die_again(connection: Connection):
    claimed(connection, "a", "you")
    leave(connection, "you")
    claimed(connection, "a", "you")
    assert claimed(connection, "a") == [Claimed.ELSEWHERE]
    die(connection, "you")
    assert claimed(connection, "a") == [Claimed.OURS]


@pytest.mark.parametrize(("who", "other"), [("me", "you"), ("you", "me")])
def test_a_beat_is_the_sign_of_life_of_one_holder(connection: Connection, who: str, other: str):
    long_ago = datetime(2026, 1, 1)
    for holder in (who, other):
        beat(connection, holder)
    connection.execute(update(holders).values(heartbeat=long_ago))
    beat(connection, who)
    beats = dict(connection.execute(select(holders.c.id, holders.c.heartbeat)).tuples().all())
    assert beats[who] > long_ago == beats[other]
