"""Claims against caps in one transaction each: what is granted, what is over, and what makes room again."""

from collections.abc import Iterator
from datetime import datetime

import pytest
from sqlalchemy import Connection, select, update

from tapir_core.calls import Role, Spend
from tapir_core.calls.budget import Reservation
from tapir_core.calls.store.claim_rows import (
    Grant,
    State,
    Wanted,
    add_spend,
    beat,
    claim,
    drop_holder,
    read_spend,
    release,
)
from tapir_core.calls.store.lease import Holder
from tapir_core.calls.store.tables import holders, open_engine, writing
from tapir_core.config import BudgetConfig

OURS = Grant(State.OURS)


@pytest.fixture
def connection(store_url: str) -> Iterator[Connection]:
    engine = open_engine(store_url)
    with writing(engine) as connection:
        yield connection
    engine.dispose()


def want(keys: str, *, run: str = "a-run", role: Role = "teach", tokens: int = 10, usd: float = 0.5) -> list[Wanted]:
    return [Wanted(key, run, role, Reservation(tokens, usd)) for key in keys]


def states(connection: Connection, wanted: list[Wanted], holder: str = "me", **caps: object) -> list[State]:
    return [grant.state for grant in claim(connection, holder, wanted, BudgetConfig.model_validate(caps))]


@pytest.mark.parametrize("caps", [{"requests": 2}, {"tokens": 29}, {"usd": 1.25}])
def test_equal_caps_of_any_amount_let_the_first_two_of_three_in(connection: Connection, caps: dict[str, float]):
    assert states(connection, want("abc"), **caps) == [State.OURS, State.OURS, State.OVER]


def test_a_claim_that_is_out_may_still_make_room_and_without_one_the_cap_is_final(connection: Connection):
    assert claim(connection, "me", want("ab", tokens=0), BudgetConfig(requests=1)) == [
        OURS,
        Grant(
            State.OVER,
            "budget.requests = 1 is reached: 1 is spent or reserved, and the next request may take 1",
            final=False,
        ),
    ]
    [over] = claim(connection, "you", want("c", tokens=0), BudgetConfig(requests=1))
    assert not over.final, "what another process has out counts as well"
    release(connection, ["a"])
    add_spend(connection, "a-run", "teach", Spend(1))
    [over] = claim(connection, "me", want("b"), BudgetConfig(requests=1))
    assert (over.state, over.final) == (State.OVER, True)


def test_what_another_process_reserved_counts_and_its_end_makes_room(connection: Connection):
    assert states(connection, want("ab"), "you", tokens=30) == [State.OURS] * 2
    assert states(connection, want("cd"), tokens=30) == [State.OURS, State.OVER]
    drop_holder(connection, "you")
    assert states(connection, want("de"), tokens=30) == [State.OURS, State.OURS]


def test_stages_reserve_from_one_cap_and_a_stages_cap_counts_its_own(connection: Connection):
    stages = {"judge": {"requests": 1}}
    assert states(connection, want("a") + want("b", role="judge"), requests=3, stages=stages) == [State.OURS] * 2
    assert states(connection, want("c", role="judge") + want("d"), requests=3, stages=stages) == [
        State.OVER,
        State.OURS,
    ]
    assert states(connection, want("e"), requests=3, stages=stages) == [State.OVER]


def test_runs_have_caps_of_their_own(connection: Connection):
    assert states(connection, want("ab"), requests=2) == [State.OURS] * 2
    add_spend(connection, "a-run", "teach", Spend(5))
    both = want("c") + want("d", run="b-run")
    assert states(connection, both, requests=2) == [State.OVER, State.OURS]
    others = claim(connection, "me", want("c") + want("e", run="c-run"), BudgetConfig(usd=0.4))
    assert [grant.final for grant in others] == [False, True]


def test_what_other_runs_have_out_takes_no_room(connection: Connection):
    for run, keys in (("b-run", "ab"), ("a-run", "cd"), ("c-run", "ef")):
        assert states(connection, want(keys, run=run), requests=2) == [State.OURS] * 2


def test_without_caps_everything_is_granted(connection: Connection):
    add_spend(connection, "a-run", "teach", Spend(10**6, 10**9, 10**9, 10.0**6, 10.0**6))
    assert states(connection, want("abc", tokens=10**9, usd=10.0**6)) == [State.OURS] * 3


def test_a_claim_of_ours_may_be_claimed_again_and_is_then_reserved_twice_at_worst(connection: Connection):
    assert states(connection, want("a")) == [State.OURS]
    assert states(connection, want("ab"), requests=3) == [State.OURS, State.OURS]
    assert states(connection, want("ab"), "you") == [State.ELSEWHERE, State.ELSEWHERE]


def test_releasing_ends_the_claims_that_are_named_and_no_other(connection: Connection):
    states(connection, want("abc"))
    release(connection, [])
    release(connection, ["a", "b", "unknown"])
    assert states(connection, want("abc"), "you") == [State.OURS, State.OURS, State.ELSEWHERE]


def test_spending_adds_up_by_run_and_role(connection: Connection):
    once = Spend(1, 20, 3, 0.25, 1.5)
    for run, role in (("a-run", "teach"), ("a-run", "teach"), ("a-run", "judge"), ("b-run", "teach")):
        add_spend(connection, run, role, once)
    assert read_spend(connection, "a-run") == {"judge": once, "teach": once + once}
    assert list(read_spend(connection, "a-run")) == ["judge", "teach"]
    assert read_spend(connection, "c-run") == {}


@pytest.mark.parametrize(("gone", "stays"), [("me", "you"), ("you", "me")])
def test_a_holder_that_goes_leaves_the_claims_of_others(connection: Connection, gone: str, stays: str):
    states(connection, want("a"), stays)
    states(connection, want("b"), gone)
    drop_holder(connection, gone)
    assert connection.execute(select(holders.c.id)).scalars().all() == [stays]
    assert states(connection, want("ab"), "they") == [State.ELSEWHERE, State.OURS]


def die(connection: Connection, holder: str) -> None:
    """Its process number belongs to another process from now on."""
    gone = {"process_started": holders.c.process_started - 100}
    connection.execute(update(holders).where(holders.c.id == holder).values(gone))


def test_who_is_gone_loses_its_claims_and_who_is_here_keeps_them(connection: Connection):
    states(connection, want("a"), "you")
    states(connection, want("b"), "gone")
    die(connection, "gone")
    assert states(connection, want("ab")) == [State.ELSEWHERE, State.OURS]


def test_who_was_taken_for_dead_and_goes_on_claiming_can_die_again(connection: Connection):
    states(connection, want("a"), "you")
    drop_holder(connection, "you")
    states(connection, want("a"), "you")
    assert states(connection, want("a")) == [State.ELSEWHERE]
    die(connection, "you")
    assert states(connection, want("a")) == [State.OURS]


@pytest.mark.parametrize(("who", "other"), [("me", "you"), ("you", "me")])
def test_a_beat_is_the_sign_of_life_of_one_holder(connection: Connection, who: str, other: str):
    long_ago = datetime(2026, 1, 1)
    for holder in (who, other):
        beat(connection, holder, Holder.this_process())
    connection.execute(update(holders).values(heartbeat=long_ago))
    beat(connection, who, Holder.this_process())
    beats = dict(connection.execute(select(holders.c.id, holders.c.heartbeat)).tuples().all())
    assert beats[who] > long_ago == beats[other]
