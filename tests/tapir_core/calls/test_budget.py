"""Caps hold over processes and restarts; at a cap nothing more is sent, and raising it goes on where it stopped."""

import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.calls import Answer, AnswerStore, CallEngine, Failure, Outcome, Request, Spend
from tapir_core.calls.budget import DRIVING, LiveSpend, cap_reached, reserve
from tapir_core.calls.types import Endpoint, FailureKind
from tapir_core.calls.wire import Reply
from tapir_core.config import BudgetConfig, CallsConfig, Sampling
from tests.doubles.provider import FakeProvider, Status, Text, make_request

PRICES = {"usd_per_million_prompt_tokens": 1000.0, "usd_per_million_completion_tokens": 1000.0}
"""An answer of the fake provider, 10 + 5 tokens, costs 0.015 USD."""


def questions(count: int, *, role: str = "teach") -> list[Request]:
    return [make_request(f"question {n}", sampling=Sampling(max_tokens=8), role=role) for n in range(count)]


def open_capped(store_url: str, config: CallsConfig, run: str = "a-run", **caps: object) -> CallEngine:
    return CallEngine(AnswerStore(store_url), config, run=run, budget=BudgetConfig.model_validate(caps))


def kinds(outcomes: list[Outcome]) -> dict[str, int]:
    names = ["answer" if isinstance(each, Answer) else each.kind for each in outcomes]
    return {name: names.count(name) for name in sorted(set(names))}


@pytest.mark.parametrize("caps", [{"usd": 0.3}, {"tokens": 300}, {"requests": 20}])
def test_at_a_cap_nothing_more_is_sent_and_what_came_is_kept(
    store_url: str, quick: CallsConfig, caps: dict[str, float]
):
    with FakeProvider() as provider, open_capped(store_url, quick, **caps) as engine:
        outcomes = engine.ask(questions(100), lambda: provider.endpoint(concurrency=4, **PRICES))
        sent = len(provider.calls)
        assert 15 <= sent <= 20
        assert kinds(outcomes) == {"answer": sent, "budget": 100 - sent}
        assert next(iter(caps)) in engine.spend().cap_reached
        assert engine.paid()["teach"].usd <= 0.3 + 1e-9


def test_a_restart_goes_on_from_what_was_spent_and_a_raised_cap_asks_only_for_the_rest(
    store_url: str, quick: CallsConfig
):
    with FakeProvider() as provider:
        for cap, sent in ((10, 10), (10, 10), (30, 30), (None, 50)):
            with open_capped(store_url, quick, requests=cap) as engine:
                engine.ask(questions(50), lambda: provider.endpoint(concurrency=4))
            assert len(provider.calls) == sent
        assert len(set(provider.prompts())) == 50


def test_processes_share_one_budget(store_url: str, quick: CallsConfig):
    def ask(which: int) -> None:
        with open_capped(store_url, quick, usd=0.6) as engine:
            mine = [make_request(f"{which}: {n}", sampling=Sampling(max_tokens=8)) for n in range(40)]
            engine.ask(mine, lambda: provider.endpoint(concurrency=4, **PRICES))

    with FakeProvider(latency_seconds=0.01) as provider:
        threads = [threading.Thread(target=ask, args=(which,)) for which in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 35 <= len(provider.calls) <= 40


def test_runs_share_the_caps_that_have_one_name(store_url: str, quick: CallsConfig):
    def ask(run: str, count: int = 40, **caps: object) -> LiveSpend:
        with open_capped(store_url, quick, run, **caps) as engine:
            mine = [make_request(f"{run}: {n}", sampling=Sampling(max_tokens=8)) for n in range(count)]
            engine.ask(mine, lambda: provider.endpoint(concurrency=4, **PRICES))
            return engine.spend()

    with FakeProvider(latency_seconds=0.01) as provider:
        ask("before", 5, shared="all_of.them")  # without a cap, and counted all the same
        ask("another", 5, shared="all-of.them")
        threads = [
            threading.Thread(target=ask, args=(f"run-{which}",), kwargs={"usd": 0.6, "shared": "all_of.them"})
            for which in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 35 <= len(provider.calls) - 5 <= 40
        last = ask("the-last", usd=0.6, shared="all_of.them")
        assert re.search(
            r"budget.usd = 0.6 is reached.*, by 6 runs \(budget.shared = 'all_of.them'\)", last.cap_reached
        )
        assert ask("alone", 1, usd=0.6).answers == ask("of-others", 1, usd=0.6, shared="all-of.them").answers == 1


def test_attempts_that_fail_are_counted_too(store_url: str, quick: CallsConfig):
    with FakeProvider(lambda _: Status(500)) as provider, open_capped(store_url, quick) as engine:
        engine.ask(questions(5), lambda: provider.endpoint(concurrency=2))
        paid = engine.paid()
        assert paid["teach"].requests == 5 * quick.max_attempts
        assert sum(each.requests for each in paid.values()) == len(provider.calls)


def test_a_stage_has_caps_of_its_own_and_the_student_has_none(store_url: str, quick: CallsConfig):
    caps = {"stages": {"judge": {"requests": 3}}, "requests": 1000}
    with FakeProvider() as provider, open_capped(store_url, quick, **caps) as engine:
        ask = {role: engine.ask(questions(6, role=role), provider.endpoint) for role in ("judge",)}
        assert kinds(ask["judge"]) == {"answer": 3, "budget": 3}
        assert "budget.stages.judge.requests = 3" in engine.spend().cap_reached
        others = [make_request(f"other {n}", role="teach") for n in range(6)]
        assert kinds(engine.ask(others, provider.endpoint)) == {"answer": 6}
    with FakeProvider() as provider, open_capped(store_url, quick, requests=10) as engine:
        answers = [make_request(f"student {n}", role="answer") for n in range(6)]
        assert kinds(engine.ask(answers, provider.endpoint)) == {"answer": 6}
        paid = [make_request(f"more {n}", role="teach") for n in range(2)]
        assert kinds(engine.ask(paid, provider.endpoint)) == {"answer": 1, "budget": 1}


def test_a_run_that_worked_its_hours_is_over(store_url: str, quick: CallsConfig):
    with AnswerStore(store_url) as store:
        store.add_seconds("a-run", DRIVING, 3600).result(timeout=30)
    with FakeProvider() as provider, open_capped(store_url, quick, hours=1.0) as engine:
        [outcome] = engine.ask(questions(1), provider.endpoint)
    assert isinstance(outcome, Failure)
    assert "budget.hours = 1" in outcome.message


def test_time_worked_is_added_up_over_starts(store_url: str, quick: CallsConfig):
    for _ in range(2):
        with FakeProvider(latency_seconds=0.05) as provider, open_capped(store_url, quick) as engine:
            engine.ask([make_request(f"{provider.base_url}")], provider.endpoint)
    with AnswerStore(store_url) as store:
        spent = store.spend_by_role("a-run")
    assert 0.1 <= spent["teach"].seconds <= spent[DRIVING].seconds


def test_an_unused_reservation_makes_room_again(store_url: str, quick: CallsConfig):
    """Each request reserves four times what it costs: the cap is still used up, by waiting for what is in flight."""
    dear = [make_request(f"question {n}", sampling=Sampling(max_tokens=40)) for n in range(10)]
    with FakeProvider(lambda _: Text("x")) as provider, open_capped(store_url, quick, tokens=150) as engine:
        outcomes = engine.ask(dear, lambda: provider.endpoint(concurrency=8))
        # 59 tokens are reserved and 15 are spent: while at most 91 are spent, there is room for one more.
        assert kinds(outcomes) == {"answer": 7, "budget": 3}


def test_every_row_is_sent_that_has_room_once_those_before_it_are_settled(store_url: str, quick: CallsConfig):
    """Ten of 15 tokens fit into 194, though each reserves 59: the last one has room when nine are settled."""
    dear = [make_request(f"question {n}", sampling=Sampling(max_tokens=40)) for n in range(10)]
    with FakeProvider(lambda _: Text("x")) as provider, open_capped(store_url, quick, tokens=194) as engine:
        assert kinds(engine.ask(dear, lambda: provider.endpoint(concurrency=8))) == {"answer": 10}


def test_who_waits_for_room_asks_the_store_only_when_an_attempt_has_ended(
    store_url: str, quick: CallsConfig, monkeypatch: pytest.MonkeyPatch
):
    bookings: list[int] = []
    book = AnswerStore.book
    monkeypatch.setattr(AnswerStore, "book", lambda self, some, caps: (bookings.append(1), book(self, some, caps))[1])
    with FakeProvider(latency_seconds=1.0) as provider, open_capped(store_url, quick, requests=2) as engine:
        outcomes = engine.ask(questions(30), lambda: provider.endpoint(concurrency=8))
    assert kinds(outcomes) == {"answer": 2, "budget": 28}
    assert len(bookings) <= 30 + 2 * 8, (
        "once each row, and who is in flight once more after each attempt that has ended"
    )


def test_what_waits_for_room_is_not_sent_once_the_run_stops(store_url: str, quick: CallsConfig):
    def stop_the_run(_: object) -> Text:
        engine.stop_sending()
        return Text("x")

    with FakeProvider(stop_the_run) as provider, open_capped(store_url, quick, tokens=60) as engine:
        dear = [make_request(f"question {n}", sampling=Sampling(max_tokens=40)) for n in range(6)]
        outcomes = engine.ask(dear, lambda: provider.endpoint(concurrency=8))
    assert kinds(outcomes) == {"answer": 1, "stopped": 5}
    assert len(provider.calls) == 1


@given(text=st.text(max_size=200), max_tokens=st.integers(1, 4096))
def test_a_reservation_covers_the_longest_reply(text: str, max_tokens: int):
    request = make_request(text, sampling=Sampling(max_tokens=max_tokens))
    endpoint = Endpoint("http://127.0.0.1/v1", 1, usd_per_million_completion_tokens=2.0)
    reserved = reserve(request, endpoint)
    assert reserved.tokens > max_tokens
    assert reserved.usd == pytest.approx(max_tokens * 2.0 / 1e6)


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 60))
def test_the_cap_is_passed_by_no_request_that_was_let_in(spent: int, cap: int, wanted: int):
    reason = cap_reached(BudgetConfig(tokens=cap), {"teach": Spend(1, spent)}, "judge", Spend(1, wanted))
    assert (reason is None) == (spent + wanted <= cap)


def test_what_was_spent_since_is_the_difference_in_each_amount():
    before, after = Spend(1, 20, 10, 0.5, 3.0), Spend(5, 60, 40, 2.0, 10.0)
    assert after - before == Spend(4, 40, 30, 1.5, 7.0)
    assert before + (after - before) == after


def test_only_a_cap_is_told_as_the_cap_that_was_reached():
    found = LiveSpend()
    ends: list[FailureKind] = ["budget", "refused", "timeout", "bad_request"]
    assert found.sent == 0
    for kind in ends:
        found.count_reply(Reply(Failure(kind, f"of {kind}")))
    assert found.cap_reached == "of budget"
    assert found.failures == dict.fromkeys(ends, 1)
