"""Attempts booked before they are sent: what they reserve, what they cost in the end, and which caps have room."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from tapir_core.calls import Answer, Role, Spend
from tapir_core.calls.budget import Attempt, Settlement
from tapir_core.calls.store_rows import (
    add_spend,
    book,
    insert_rows,
    make_row,
    read_spend,
    read_unknown,
    settle,
)
from tapir_core.calls.store_tables import attempts, metadata, open_engine, writing
from tapir_core.calls.wire import Reply
from tapir_core.config import BudgetConfig
from tests.doubles.provider import make_request

MOST = Spend(1, 20, 10, 0.5)


@pytest.fixture
def connection(store_url: str) -> Iterator[Connection]:
    engine = open_engine(store_url)
    with writing(engine) as connection:
        yield connection
    engine.dispose()


def want(*ids: int, run: str = "a-run", role: Role = "teach", most: Spend = MOST) -> list[Attempt]:
    return [Attempt(each, run, role, f"key {each}", most) for each in ids]


def fits(connection: Connection, wanted: list[Attempt], **caps: object) -> list[bool]:
    budget = BudgetConfig.model_validate(caps)
    return [not refusal for refusal in book(connection, [(each, budget) for each in wanted])]


def outcomes(connection: Connection) -> dict[int, tuple[str, bool]]:
    rows = connection.execute(select(attempts.c.id, attempts.c.outcome, attempts.c.unknown))
    return {row.id: (row.outcome, row.unknown) for row in rows}


@pytest.mark.parametrize("caps", [{"requests": 2}, {"tokens": 89}, {"usd": 1.25}])
def test_equal_caps_of_any_amount_let_the_first_two_of_three_in(connection: Connection, caps: dict[str, float]):
    assert fits(connection, want(1, 2, 3), **caps) == [True, True, False]
    assert fits(connection, want(4), **caps) == [False], "what is out counts at the most that it can cost"
    assert sorted(outcomes(connection)) == [1, 2], "what has no room is not written down"


def test_what_is_booked_is_spent_before_any_reply_comes(connection: Connection):
    fits(connection, want(1, 2))
    assert read_spend(connection, "a-run") == {"teach": Spend(2, 40, 20, 1.0)}
    assert read_unknown(connection, "a-run") == Spend(2, 40, 20, 1.0)
    assert read_unknown(connection, "another-run") == Spend()


def test_a_reply_replaces_the_reservation_by_what_it_says(connection: Connection):
    fits(connection, want(1, 2, 3, 4))
    settle(
        connection,
        [
            Settlement(1, "answer", Spend(1, 7, 3, 0.25)),
            Settlement(2, "timeout", None),
            Settlement(3, "", Spend()),
        ],
    )
    assert outcomes(connection) == {1: ("answer", False), 2: ("timeout", True), 4: ("", True)}
    assert read_spend(connection, "a-run") == {"teach": Spend(3, 47, 23, 1.25)}
    assert read_unknown(connection, "a-run") == Spend(2, 40, 20, 1.0)


def test_what_is_settled_below_its_reservation_makes_room(connection: Connection):
    assert fits(connection, want(1, 2), usd=0.75) == [True, False]
    settle(connection, [Settlement(1, "answer", Spend(1, 7, 3, 0.25))])
    assert fits(connection, want(3, 4), usd=0.75) == [True, False]


def test_booking_and_settling_again_after_a_commit_whose_end_nobody_knows_changes_nothing(connection: Connection):
    for repeated in (False, True):
        some = [(each, BudgetConfig(requests=2)) for each in want(1, 2)]
        assert book(connection, some, repeated=repeated) == ["", ""], "at a cap, too"
    for _ in range(2):
        settle(connection, [Settlement(1, "answer", Spend(1, 7, 3, 0.25)), Settlement(2, "", Spend())])
    settle(connection, [Settlement(1, "server", Spend(1, 99, 99, 9.0)), Settlement(77, "answer", Spend(1, 1, 1, 1.0))])
    assert read_spend(connection, "a-run") == {"teach": Spend(1, 7, 3, 0.25)}


def test_stages_reserve_from_one_cap_and_a_stages_cap_counts_its_own(connection: Connection):
    stages = {"judge": {"requests": 1}}
    assert fits(connection, want(1) + want(2, role="judge"), requests=3, stages=stages) == [True, True]
    assert fits(connection, want(3, role="judge") + want(4), requests=3, stages=stages) == [False, True]
    assert fits(connection, want(5), requests=3, stages=stages) == [False]


def test_runs_have_caps_of_their_own(connection: Connection):
    assert fits(connection, want(1, 2), requests=2) == [True, True]
    assert fits(connection, want(3) + want(4, run="b-run"), requests=2) == [False, True]


def test_without_caps_everything_is_booked(connection: Connection):
    add_spend(connection, "a-run", "teach", Spend(10**6, 10**9, 10**9, 10.0**6, 10.0**6))
    assert fits(connection, want(1, 2, most=Spend(1, 10**9, 10**9, 10.0**6))) == [True, True]


def test_a_refusal_says_how_much_of_the_spending_no_reply_has_told(connection: Connection):
    fits(connection, want(1, 2))
    settle(connection, [Settlement(1, "answer", Spend(1, 7, 3, 0.25))])
    (refusal,) = book(connection, [(want(3)[0], BudgetConfig(usd=1.0))])
    assert refusal == (
        "budget.usd = 1 is reached: 0.75 is spent or reserved, and the next request may take 0.5. "
        "Of 1 requests (0.5 USD) no reply has told the cost"
    )


def test_spending_adds_up_by_run_and_role(connection: Connection):
    once = Spend(1, 20, 3, 0.25, 1.5)
    for run, role in (("a-run", "teach"), ("a-run", "teach"), ("a-run", "judge"), ("b-run", "teach")):
        add_spend(connection, run, role, once)
    assert read_spend(connection, "a-run") == {"judge": once, "teach": once + once}
    assert list(read_spend(connection, "a-run")) == ["judge", "teach"]
    assert read_spend(connection, "c-run") == {}


def test_an_answer_that_is_given_twice_counts_once_and_the_second_gets_the_first(connection: Connection):
    request = make_request("twice")
    row = make_row(request.key, request, Reply(Answer("fine", "stop", 1, 1)))
    got = insert_rows(connection, [row, dict(row)])
    assert {key: answer.text for key, answer in got.items() if isinstance(answer, Answer)} == {request.key: "fine"}


ATTEMPTED = st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans())


@given(wanted=st.lists(ATTEMPTED, max_size=12), cap=st.integers(1, 40))
def test_whatever_is_booked_and_settled_the_sums_are_those_of_the_attempts_and_below_the_cap(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[int, int, bool]], cap: int
):
    engine = open_engine(f"sqlite:///{tmp_path_factory.getbasetemp() / 'laws.sqlite'}")
    with writing(engine) as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
        for number, (most, cost, known) in enumerate(wanted):
            attempt = want(number, most=Spend(1, most))[0]
            if fits(connection, [attempt], tokens=cap) == [True] and known:
                settle(connection, [Settlement(number, "answer", Spend(1, min(cost, most)))])
            spent = read_spend(connection, "a-run").get("teach", Spend())
            rows = connection.execute(select(attempts)).all()
            assert spent == Spend(len(rows), sum(each.prompt_tokens for each in rows))
            assert spent.prompt_tokens <= cap
    engine.dispose()
