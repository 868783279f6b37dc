"""Asking the call engine: order, nothing twice, what is shared, what it counts."""

import threading
from collections import Counter
from dataclasses import replace

import pytest

from tapir_core.calls import Answer, CallEngine, Endpoint, Outcome, Spend, Watch
from tapir_core.config import CallsConfig, Sampling
from tests.doubles.provider import (
    FakeProvider,
    Status,
    Text,
    in_turn,
    make_request,
)
from tests.tapir_core.calls.engine_helpers import SLOW_DOWN, never, open_engine, prompts, texts


def test_outcomes_come_in_the_order_of_the_requests(engine: CallEngine):
    with FakeProvider() as provider:
        asked = engine.ask(prompts(50), provider.endpoint)
    assert texts(asked) == [f"echo: question {number}" for number in range(50)]


def test_nothing_is_asked_twice_and_a_stored_answer_asks_for_no_endpoint(engine: CallEngine):
    with FakeProvider() as provider:
        first = engine.ask(prompts(10), provider.endpoint)
        more = engine.ask(prompts(15), provider.endpoint)
        again = engine.ask(prompts(15), never)
        assert len(provider.calls) == 15
    assert texts(again) == texts(more)
    assert texts(first) == texts(more)[:10]
    assert [outcome.stored for outcome in more] == [True] * 10 + [False] * 5


def test_an_empty_list_needs_nothing(engine: CallEngine):
    assert engine.ask([], never) == []


def test_equal_requests_of_one_list_share_one_call_and_one_pays(engine: CallEngine):
    with FakeProvider() as provider:
        outcomes = engine.ask([make_request("same")] * 5, provider.endpoint)
        assert len(provider.calls) == 1
    assert texts(outcomes) == ["echo: same"] * 5
    assert [outcome.stored for outcome in outcomes] == [False, True, True, True, True]


def test_other_roles_runs_and_prompt_versions_share_an_answer_but_other_samples_do_not(engine: CallEngine):
    same = [make_request(role="teach"), make_request(role="judge", run="other", prompt_version="v2")]
    others = [make_request(sample_index=1), make_request(identity="fake-2"), make_request(sampling=Sampling(top_p=0.9))]
    with FakeProvider() as provider:
        engine.ask([*same, *others], provider.endpoint)
        assert len(provider.calls) == 4


def test_equal_requests_of_several_threads_share_one_call(engine: CallEngine):
    results: list[list[Outcome]] = []
    with FakeProvider(latency_seconds=0.05) as provider:
        threads = [
            threading.Thread(target=lambda: results.append(engine.ask(prompts(10), provider.endpoint)))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Counter(provider.prompts()) == {f"question {number}": 1 for number in range(10)}
    assert len({tuple(texts(result)) for result in results}) == 1
    assert sum(not outcome.stored for result in results for outcome in result) == 10


def test_two_engines_share_one_store(store_url: str, quick: CallsConfig):
    with FakeProvider() as provider:
        with open_engine(store_url, quick) as one:
            one.ask(prompts(5), provider.endpoint)
        with open_engine(store_url, quick) as other:
            assert texts(other.ask(prompts(5), never)) == [f"echo: question {number}" for number in range(5)]


def test_each_outcome_is_reported_once_in_the_asking_thread_when_it_is_stored(engine: CallEngine):
    reported: list[tuple[int, str, int, str]] = []

    def on_outcome(place: int, outcome: Outcome) -> None:
        stored = engine.count_stored([requests[place]])
        reported.append((place, texts([outcome])[0], stored, threading.current_thread().name))

    requests = [*prompts(4), *prompts(2)]
    with FakeProvider() as provider:
        outcomes = engine.ask(requests, provider.endpoint, Watch(on_outcome))
    me = threading.current_thread().name
    assert sorted(reported) == [(place, text, 1, me) for place, text in enumerate(texts(outcomes))]


def test_what_is_stored_can_be_counted_before_asking(engine: CallEngine):
    with FakeProvider() as provider:
        engine.ask(prompts(3), provider.endpoint)
    assert engine.count_stored([*prompts(5), *prompts(1)]) == 4


def test_no_more_calls_are_in_flight_than_the_endpoint_allows_over_all_threads(engine: CallEngine):
    together = threading.Barrier(8)

    def source() -> Endpoint:
        together.wait(timeout=10)
        return provider.endpoint(concurrency=3)

    with FakeProvider(latency_seconds=0.01) as provider:
        threads = [
            threading.Thread(target=engine.ask, args=(prompts(20, start=20 * number), source)) for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert provider.most_at_once == 3
        assert len(provider.calls) == 160


def test_live_counters_and_the_runs_bill_agree(engine: CallEngine):
    with FakeProvider(in_turn(SLOW_DOWN, Text("a"), Text(None, refusal="No."), *[Status(500)] * 5)) as provider:
        paid = provider.endpoint(
            concurrency=1, usd_per_million_prompt_tokens=100.0, usd_per_million_completion_tokens=200.0
        )
        for prompt in ("a", "b", "c", "a"):
            engine.ask([make_request(prompt)], lambda: paid)
    live = engine.spend()
    assert (live.sent, live.stored, live.answers) == (8, 1, 1)
    assert live.failures == {"refused": 1, "server": 1}
    assert live.spent == Spend(7, 20, 10, pytest.approx(0.004))
    paid_by_role = engine.paid()
    assert replace(paid_by_role["teach"], seconds=0.0) == Spend(7, 20, 10, pytest.approx(0.004))
    assert paid_by_role["probe"].requests == 1


def test_log_probabilities_come_from_the_store_as_they_came_from_the_endpoint(engine: CallEngine):
    request = make_request(role="benchmark", top_logprobs=2)
    with FakeProvider(lambda _: Text("m", logprobs={"m": -0.5, "M": -1.0})) as provider:
        [first] = engine.ask([request], provider.endpoint)
        [again] = engine.ask([request], never)
    assert isinstance(first, Answer)
    assert isinstance(again, Answer)
    assert first.logprobs == again.logprobs == (("m", -0.5), ("M", -1.0))
