"""A reply that comes again and again without an answer ends its row; a server in trouble ends none."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tapir_core.calls import AnswerStore, CallEngine, Failure, Outcome
from tapir_core.calls.types import GREETING
from tapir_core.config import CallsConfig
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text, echo, make_request
from tests.tapir_core.calls.engine_helpers import never, open_engine, prompts, texts

PATIENT = CallsConfig(backoff_seconds=0.001)
BLOCKED = Status(200, {"id": "chat-1", "choices": [], "note": "we do not answer this"})
BROKEN = Status(500, {"error": {"message": "Internal error, request req-123"}})


def first_only(reply: FakeReply) -> Callable[[RecordedCall], FakeReply]:
    """A script that gives ``reply`` to the first question and answers the others."""
    return lambda call: reply if call.prompt == "question 0" else echo(call)


def failed(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure)
    return outcome


def asked(provider: FakeProvider) -> Counter[str]:
    return Counter(provider.prompts())


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [], "created": 7},
        {"choices": None},
        {"choices": [{"finish_reason": "stop"}]},
        {"choices": [{"message": None, "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": "half"}, "finish_reason": "error"}]},
    ],
)
def test_a_row_that_gets_no_answer_three_times_is_not_asked_again(engine: CallEngine, body: dict[str, Any]):
    with FakeProvider(first_only(Status(200, body))) as provider:
        outcome = failed(engine.ask(prompts(1), provider.endpoint)[0])
        assert (outcome.kind, outcome.attempts, outcome.retryable) == ("no_answer", 3, False)
        assert texts(engine.ask(prompts(1), never)) == ["no_answer"]
        assert len(provider.calls) == 3


def test_it_shows_what_the_provider_said(engine: CallEngine):
    with FakeProvider(first_only(BLOCKED)) as provider:
        assert "we do not answer this" in failed(engine.ask(prompts(1), provider.endpoint)[0]).message


def test_the_count_goes_on_over_starts_and_begins_anew_once_it_is_forgotten(store_url: str):
    once = CallsConfig(max_attempts=1)
    with FakeProvider(first_only(BLOCKED)) as provider:
        kinds = list[str]()
        for _ in range(4):
            with open_engine(store_url, once) as engine:
                kinds += texts(engine.ask(prompts(1), provider.endpoint))
        assert kinds == ["server", "server", "no_answer", "no_answer"]
        assert len(provider.calls) == 3
        with open_engine(store_url, once) as engine:
            engine.forget(prompts(1))
            assert texts(engine.ask(prompts(1), provider.endpoint)) == ["server"]


def test_another_reply_between_begins_the_count_anew(store_url: str):
    replies = iter(
        [BLOCKED, BLOCKED, Status(200, {"choices": [], "note": "nor that"}), BLOCKED, BLOCKED, Text("At last")]
    )
    with FakeProvider(lambda _: next(replies)) as provider, open_engine(store_url, PATIENT) as engine:
        assert texts(engine.ask(prompts(1), provider.endpoint)) == ["At last"]


@pytest.mark.parametrize("reply", [BROKEN, Status(502, "<html>Bad gateway</html>"), Status(200, "no JSON")])
def test_a_row_that_breaks_the_server_ends_while_others_are_answered(store_url: str, reply: Status):
    with FakeProvider(first_only(reply), latency_seconds=0.002) as provider:
        config = CallsConfig(backoff_seconds=0.01, concurrency=1)
        with open_engine(store_url, config) as engine:
            outcomes = engine.ask(prompts(40), lambda: provider.endpoint(concurrency=2))
        assert texts(outcomes)[0] == "no_answer"
        assert asked(provider)["question 0"] <= 4
        assert texts(outcomes)[1:] == [f"echo: question {number}" for number in range(1, 40)]


@pytest.mark.parametrize("reply", [BROKEN, Status(200, "no JSON"), Status(503, "busy"), Status(529)])
def test_a_server_that_fails_everybody_ends_no_row(engine: CallEngine, reply: Status):
    with FakeProvider(lambda _: reply) as provider:
        assert set(texts(engine.ask(prompts(5), provider.endpoint))) == {"server"}
        assert engine.count_stored(prompts(5)) == 0


def test_a_server_that_fails_now_and_then_ends_no_row(store_url: str):
    seen = Counter[str]()

    def flaky(call: RecordedCall) -> FakeReply:
        seen[call.prompt] += 1
        return BROKEN if seen[call.prompt] <= (4 if call.prompt == "question 9" else 1) else echo(call)

    with FakeProvider(flaky) as provider, open_engine(store_url, PATIENT) as engine:
        early = engine.ask(prompts(5), provider.endpoint)
        late = engine.ask(prompts(20), provider.endpoint)
    assert not {"no_answer", "server"} & {*texts(early), *texts(late)}


def test_what_earlier_starts_counted_is_forgotten_once_the_server_answers_after_the_same_reply(store_url: str):
    once = CallsConfig(max_attempts=1)
    with FakeProvider(first_only(BROKEN)) as provider:
        for _ in range(2):
            with open_engine(store_url, once) as engine:
                assert texts(engine.ask(prompts(2), provider.endpoint))[0] == "server"
    replies = iter([BROKEN, Text("At last")])
    with FakeProvider(lambda _: next(replies)) as provider, open_engine(store_url, PATIENT) as engine:
        assert texts(engine.ask([make_request("another")], provider.endpoint)) == ["At last"]
    with FakeProvider(first_only(BROKEN)) as provider, open_engine(store_url, once) as engine:
        assert texts(engine.ask(prompts(4), provider.endpoint))[0] == "server"


@pytest.mark.parametrize("reply", [BROKEN, Status(502, "<html>Bad gateway</html>"), Status(200, "no JSON")])
@pytest.mark.parametrize("attempts", [1, 2, 8])
def test_rows_that_break_the_server_end_where_none_is_left_that_it_answers(
    store_url: str, reply: Status, attempts: int
):
    def breaks(call: RecordedCall) -> FakeReply:
        return reply if "question" in call.prompt else echo(call)

    kinds = list[str]()
    with FakeProvider(breaks) as provider:
        for _ in range(4):
            with open_engine(store_url, CallsConfig(backoff_seconds=0.001, max_attempts=attempts)) as engine:
                kinds += texts(engine.ask(prompts(2), provider.endpoint))
        assert kinds[-4:] == ["no_answer"] * 4
        questions = [prompt for prompt in provider.prompts() if "question" in prompt]
        assert 6 <= len(questions) <= 8
        assert len(provider.calls) - len(questions) <= 6


def test_a_server_that_is_down_is_greeted_seldom(store_url: str):
    with FakeProvider(lambda _: BROKEN) as provider, open_engine(store_url, PATIENT) as engine:
        assert set(texts(engine.ask(prompts(8), lambda: provider.endpoint(concurrency=8)))) == {"server"}
        assert asked(provider)[GREETING] == 1


@pytest.mark.parametrize(("role", "greeted"), [("teach", {"teach": 3, "probe": 1}), ("answer", {"answer": 4})])
def test_a_greeting_is_booked_as_a_probe_and_of_a_student_costs_nothing(
    store_url: str, role: str, greeted: dict[str, int]
):
    def breaks(call: RecordedCall) -> FakeReply:
        return BROKEN if "question" in call.prompt else echo(call)

    with FakeProvider(breaks) as provider, open_engine(store_url, PATIENT) as engine:
        assert texts(engine.ask([make_request("question 0", role=role)], provider.endpoint)) == ["no_answer"]
    with AnswerStore(store_url) as store:
        assert {
            name: spend.requests for name, spend in store.spend_by_role("a-run").items() if spend.requests
        } == greeted
