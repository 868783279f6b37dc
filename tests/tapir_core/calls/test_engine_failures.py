"""What goes wrong at an endpoint: tried again, given up, told once, and never stored as an answer."""

import asyncio
from collections import Counter

import pytest
from aiohttp import web

from tapir_core.calls import CallEngine, Endpoint, Failure, Watch
from tapir_core.config import CallsConfig
from tapir_core.errors import EngineError, TapirError
from tests.doubles.provider import (
    Drop,
    FakeProvider,
    FakeReply,
    Hang,
    RecordedCall,
    Status,
    Text,
    echo,
    in_turn,
    make_request,
)
from tests.tapir_core.calls.engine_helpers import SLOW_DOWN, never, open_engine, prompts, texts
from tests.tapir_core.store_admin.store_rows import sql


@pytest.mark.parametrize(
    "trouble", [SLOW_DOWN, Status(500), Drop(), Status(200, '{"choi'), Status(200, {"choices": []})]
)
def test_a_passing_trouble_is_tried_again_until_it_is_answered(engine: CallEngine, trouble: FakeReply):
    with FakeProvider(in_turn(trouble, trouble, Text("at last"))) as provider:
        assert texts(engine.ask([make_request()], provider.endpoint)) == ["at last"]
        assert len(provider.calls) == 3


def test_a_row_that_hangs_is_timed_out_and_tried_again_while_others_go_on(store_url: str):
    hung: set[str] = set()

    def script(call: RecordedCall) -> FakeReply:
        if call.prompt == "question 0" and not hung:
            hung.add(call.prompt)
            return Hang()
        return echo(call)

    config = CallsConfig(timeout_seconds=1, backoff_seconds=0.001)
    order: list[int] = []
    with FakeProvider(script) as provider, open_engine(store_url, config) as engine:
        outcomes = engine.ask(prompts(9), provider.endpoint, Watch(lambda place, _: order.append(place)))
    assert texts(outcomes) == [f"echo: question {number}" for number in range(9)]
    assert order[-1] == 0


def test_retry_after_is_waited(engine: CallEngine):
    busy = Status(429, headers={"Retry-After": "0.3"})
    with FakeProvider(in_turn(busy, Text("fine"))) as provider:
        engine.ask([make_request()], provider.endpoint)
        first, second = provider.calls
    assert second.arrived - first.arrived >= 0.3


def test_a_retryable_failure_counts_its_attempts_and_is_asked_again_next_time(engine: CallEngine):
    with FakeProvider(in_turn(*[SLOW_DOWN] * 4, Text("fine"))) as provider:
        failure = engine.ask([make_request()], provider.endpoint)[0]
        assert isinstance(failure, Failure)
        assert (failure.kind, failure.attempts, failure.retryable) == ("rate_limited", 4, True)
        assert engine.count_stored([make_request()]) == 0
        assert texts(engine.ask([make_request()], provider.endpoint)) == ["fine"]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Text(None, refusal="I cannot."), "refused"),
        (Text("half", finish_reason="content_filter"), "refused"),
        (Status(400, {"error": {"message": "maximum context length is 8"}}), "too_long"),
        (Status(422, {"error": {"message": "what?"}}), "bad_request"),
    ],
)
def test_a_terminal_failure_is_stored_and_not_asked_again(engine: CallEngine, reply: FakeReply, kind: str):
    with FakeProvider(in_turn(reply)) as provider:
        assert texts(engine.ask([make_request()], provider.endpoint)) == [kind]
        stored = engine.ask([make_request()], never)[0]
    assert (stored.kind, stored.stored, stored.attempts) == (kind, True, 1)


def test_one_bad_row_loses_no_other(engine: CallEngine):
    def script(call: RecordedCall) -> FakeReply:
        wrong = {"question 1": Text(None, refusal="No."), "question 2": Status(500), "question 3": Drop()}
        return wrong.get(call.prompt) or echo(call)

    with FakeProvider(script) as provider:
        outcomes = engine.ask(prompts(6), provider.endpoint)
    expected = ["echo: question 0", "refused", "no_answer", "connection", "echo: question 4", "echo: question 5"]
    assert texts(outcomes) == expected


def test_a_dead_endpoint_is_given_up_with_one_message_for_all(store_url: str):
    config = CallsConfig(dead_after_seconds=0.2, backoff_seconds=0.05, max_attempts=1000)
    with open_engine(store_url, config) as engine:
        outcomes = engine.ask(prompts(200), lambda: Endpoint("http://127.0.0.1:1/v1", 8))
        assert set(texts(outcomes)) == {"connection"}
        assert len({outcome.message for outcome in outcomes if isinstance(outcome, Failure)}) == 1
        assert "http://127.0.0.1:1/v1 has answered nothing for 0.2 s" in outcomes[0].message
        sent = engine.spend().sent
        engine.ask(prompts(200), lambda: Endpoint("http://127.0.0.1:1/v1", 8))
        # It stays suspect: the next asker finds out with what it has in flight, not after another long wait.
        assert engine.spend().sent - sent <= 8


def test_an_endpoint_that_hangs_for_everybody_is_given_up_with_what_is_in_flight(store_url: str):
    config = CallsConfig(dead_after_seconds=0.3, timeout_seconds=0.2, backoff_seconds=0.01, max_attempts=1000)
    with FakeProvider(lambda _: Hang()) as provider, open_engine(store_url, config) as engine:
        assert set(texts(engine.ask(prompts(20), provider.endpoint))) == {"connection"}
        assert engine.spend().timeouts > 2


def test_an_endpoint_that_comes_back_is_used_again(store_url: str):
    config = CallsConfig(dead_after_seconds=0.1, backoff_seconds=0.02, max_attempts=1000)
    with open_engine(store_url, config) as engine, FakeProvider(lambda _: Drop()) as provider:
        assert set(texts(engine.ask(prompts(5), provider.endpoint))) == {"connection"}
        provider.script = echo
        assert texts(engine.ask(prompts(2), provider.endpoint)) == ["echo: question 0", "echo: question 1"]


def test_a_store_that_fails_while_answers_come_ends_the_ask_with_its_reason(store_url: str, quick: CallsConfig):
    def script(call: RecordedCall) -> FakeReply:
        sql(store_url, "DROP TABLE IF EXISTS answers")
        return echo(call)

    unwritable = pytest.raises(TapirError, match="cannot be written")
    with FakeProvider(script) as provider, open_engine(store_url, quick) as engine, unwritable:
        engine.ask(prompts(4), provider.endpoint)


def test_a_single_failing_row_does_not_give_a_living_endpoint_up(store_url: str):
    def script(call: RecordedCall) -> FakeReply:
        return Drop() if call.prompt == "question 0" else echo(call)

    config = CallsConfig(dead_after_seconds=0.05, backoff_seconds=0.001, max_attempts=3)
    with FakeProvider(script, latency_seconds=0.005) as provider, open_engine(store_url, config) as engine:
        outcomes = engine.ask(prompts(100), lambda: provider.endpoint(concurrency=2))
    assert texts(outcomes)[1:] == [f"echo: question {number}" for number in range(1, 100)]


def test_a_wrong_key_is_told_at_once_with_the_variable_to_set(engine: CallEngine):
    wrong = Status(401, {"error": {"message": "Incorrect API key provided: sk-secret-123"}})
    with FakeProvider(lambda _: wrong) as provider:
        outcomes = engine.ask(
            prompts(100), lambda: provider.endpoint(concurrency=4, api_key="sk-secret-123", api_key_env="MY_KEY")
        )
        assert len(provider.calls) <= 4
    assert set(texts(outcomes)) == {"unauthorized"}
    assert all("MY_KEY" in outcome.message and "sk-secret" not in outcome.message for outcome in outcomes)
    assert engine.count_stored(prompts(100)) == 0


def test_a_wrong_address_poisons_no_row(engine: CallEngine):
    with FakeProvider() as provider:
        wrong = Endpoint(provider.base_url + "/v2", 4)
        outcomes = engine.ask(prompts(50), lambda: wrong)
        assert set(texts(outcomes)) == {"connection"}
        assert "base_url" in outcomes[0].message
        assert texts(engine.ask(prompts(1), provider.endpoint)) == ["echo: question 0"]


def test_credit_that_runs_out_midway_stops_the_calls(engine: CallEngine):
    def script(call: RecordedCall) -> FakeReply:
        empty = Status(429, {"error": {"message": "quota", "code": "insufficient_quota"}})
        return echo(call) if len(provider.calls) <= 20 else empty

    with FakeProvider(script) as provider:
        outcomes = engine.ask(prompts(60), lambda: provider.endpoint(concurrency=1))
        assert len(provider.calls) == 23
    assert Counter(texts(outcomes))["unauthorized"] == 40


def test_an_endpoint_that_cannot_be_had_fails_the_asker_only(engine: CallEngine):
    def broken() -> Endpoint:
        raise EngineError("vLLM did not start; see student.log")

    with pytest.raises(EngineError, match=r"student\.log"):
        engine.ask(prompts(3), broken)
    with FakeProvider() as provider:
        assert len(engine.ask(prompts(3), provider.endpoint)) == 3


class Spent(FakeProvider):
    """Answers what it took in a second, and then has no credit."""

    async def _send(self, request: web.Request, reply: FakeReply, call: RecordedCall) -> web.StreamResponse:
        # By its place: how many others have come meanwhile depends on the machine.
        place = self.calls.index(call)
        taken = place < 20
        await asyncio.sleep(1.0 if 4 <= place < 20 else 0.0)
        empty = Status(429, {"error": {"message": "quota", "code": "insufficient_quota"}})
        return await super()._send(request, reply if taken else empty, call)


def test_what_was_in_flight_when_credit_ran_out_is_answered_and_stored(engine: CallEngine):
    with Spent() as provider:
        asked = prompts(60)
        outcomes = engine.ask(asked, lambda: provider.endpoint(concurrency=32))
        taken = [call.prompt for call in provider.calls[:20]]
        assert engine.count_stored(asked) == len(taken)
        assert {text for text in texts(outcomes) if text.startswith("echo")} == {f"echo: {each}" for each in taken}
