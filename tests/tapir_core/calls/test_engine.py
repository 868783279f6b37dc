import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from tapir_core.calls import Answer, AnswerStore, CallEngine, Endpoint, Failure, Outcome, Request, Spend
from tapir_core.calls.fakes import (
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
from tapir_core.config import CallsConfig, Sampling
from tapir_core.errors import EngineError, TapirError

SLOW_DOWN = Status(429, {"error": {"message": "slow down"}})


def prompts(count: int, *, start: int = 0) -> list[Request]:
    return [make_request(f"question {number}") for number in range(start, start + count)]


def texts(outcomes: list[Outcome]) -> list[str]:
    return [outcome.text if isinstance(outcome, Answer) else outcome.kind for outcome in outcomes]


def never() -> Endpoint:
    raise AssertionError("the endpoint was asked for, though the store holds everything")


def open_engine(store_url: str, config: CallsConfig) -> CallEngine:
    return CallEngine(AnswerStore(store_url), config, run="a-run")


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
        outcomes = engine.ask(requests, provider.endpoint, on_outcome=on_outcome)
    me = threading.current_thread().name
    assert sorted(reported) == [(place, text, 1, me) for place, text in enumerate(texts(outcomes))]


def test_what_is_stored_can_be_counted_before_asking(engine: CallEngine):
    with FakeProvider() as provider:
        engine.ask(prompts(3), provider.endpoint)
    assert engine.count_stored([*prompts(5), *prompts(1)]) == 4


def test_no_more_calls_are_in_flight_than_the_endpoint_allows_over_all_threads(engine: CallEngine):
    with FakeProvider(latency_seconds=0.01) as provider:
        threads = [
            threading.Thread(
                target=engine.ask, args=(prompts(20, start=20 * number), lambda: provider.endpoint(concurrency=3))
            )
            for number in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert provider.most_at_once == 3
        assert len(provider.calls) == 60


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

    config = CallsConfig(timeout_seconds=0.3, backoff_seconds=0.001)
    order: list[int] = []
    with FakeProvider(script) as provider, open_engine(store_url, config) as engine:
        outcomes = engine.ask(prompts(9), provider.endpoint, on_outcome=lambda place, _: order.append(place))
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
        number = int(call.prompt.split()[1])
        return {1: Text(None, refusal="No."), 2: Status(500), 3: Drop()}.get(number) or echo(call)

    with FakeProvider(script) as provider:
        outcomes = engine.ask(prompts(6), provider.endpoint)
    expected = ["echo: question 0", "refused", "server", "connection", "echo: question 4", "echo: question 5"]
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


def test_an_endpoint_that_comes_back_is_used_again(store_url: str):
    config = CallsConfig(dead_after_seconds=0.1, backoff_seconds=0.02, max_attempts=1000)
    with open_engine(store_url, config) as engine, FakeProvider(lambda _: Drop()) as provider:
        assert set(texts(engine.ask(prompts(5), provider.endpoint))) == {"connection"}
        provider.script = echo
        assert texts(engine.ask(prompts(2), provider.endpoint)) == ["echo: question 0", "echo: question 1"]


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
        outcomes = engine.ask(prompts(500), lambda: provider.endpoint(concurrency=1))
        assert len(provider.calls) == 30
    assert Counter(texts(outcomes))["unauthorized"] == 480


def test_an_endpoint_that_cannot_be_had_fails_the_asker_only(engine: CallEngine):
    def broken() -> Endpoint:
        raise EngineError("vLLM did not start; see student.log")

    with pytest.raises(EngineError, match=r"student\.log"):
        engine.ask(prompts(3), broken)
    with FakeProvider() as provider:
        assert len(engine.ask(prompts(3), provider.endpoint)) == 3


def test_who_joined_an_interrupted_asker_asks_for_itself(engine: CallEngine):
    joined: list[list[Outcome]] = []
    second = threading.Thread(target=lambda: joined.append(engine.ask(prompts(3), provider.endpoint)))

    def interrupted() -> Endpoint:
        second.start()
        time.sleep(0.2)
        raise KeyboardInterrupt

    with FakeProvider() as provider:
        with pytest.raises(KeyboardInterrupt):
            engine.ask(prompts(3), interrupted)
        second.join()
    assert texts(joined[0]) == ["echo: question 0", "echo: question 1", "echo: question 2"]


def test_an_interrupt_while_answers_come_keeps_what_came(store_url: str, quick: CallsConfig):
    def on_outcome(_: int, __: Outcome) -> None:
        raise KeyboardInterrupt

    with FakeProvider(latency_seconds=0.02) as provider:
        with open_engine(store_url, quick) as engine, pytest.raises(KeyboardInterrupt):
            engine.ask(prompts(40), lambda: provider.endpoint(concurrency=2), on_outcome=on_outcome)
        with open_engine(store_url, quick) as engine:
            assert 1 <= engine.count_stored(prompts(40)) <= 4
            engine.ask(prompts(40), provider.endpoint)
        twice = [prompt for prompt, times in Counter(provider.prompts()).items() if times > 1]
        assert len(twice) <= 2


def test_closing_the_engine_releases_who_waits(store_url: str, quick: CallsConfig):
    raised: list[BaseException] = []
    engine = open_engine(store_url, quick)

    def ask() -> None:
        try:
            engine.ask(prompts(5), provider.endpoint)
        except TapirError as error:
            raised.append(error)

    with FakeProvider(lambda _: Hang()) as provider:
        thread = threading.Thread(target=ask)
        thread.start()
        while not provider.calls:
            time.sleep(0.01)
        engine.close()
        engine.close()
        thread.join(timeout=10)
    assert "stopped" in str(raised[0])
    with pytest.raises(TapirError, match="closed"):
        engine.ask(prompts(1, start=99), provider.endpoint)


def test_live_counters_and_the_runs_bill_agree(engine: CallEngine):
    with FakeProvider(in_turn(SLOW_DOWN, Text("a"), Text(None, refusal="No."), *[Status(500)] * 4)) as provider:
        paid = provider.endpoint(
            concurrency=1, usd_per_million_prompt_tokens=100.0, usd_per_million_completion_tokens=200.0
        )
        for prompt in ("a", "b", "c", "a"):
            engine.ask([make_request(prompt)], lambda: paid)
    live = engine.spend()
    assert (live.sent, live.stored, live.answers) == (7, 1, 1)
    assert live.failures == {"refused": 1, "server": 1}
    assert (live.prompt_tokens, live.completion_tokens, live.usd) == (20, 10, pytest.approx(0.004))
    assert engine.paid() == {"teach": Spend(2, 20, 10, pytest.approx(0.004))}


ASK_UNTIL_STOPPED = """
import sys
from tapir_core.calls import AnswerStore, CallEngine, Endpoint
from tapir_core.calls.fakes import make_request
from tapir_core.config import CallsConfig

url, base_url = sys.argv[1:]
requests = [make_request(f"question {number}") for number in range(300)]
with CallEngine(AnswerStore(url), CallsConfig(), run="a-run") as engine:
    engine.ask(requests, lambda: Endpoint(base_url, 4), on_outcome=lambda *_: print(flush=True))
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_stopped_process_pays_twice_for_nothing_but_what_was_in_flight(store_url: str, sent: int, code: int):
    with FakeProvider(latency_seconds=0.01) as provider:
        command = [sys.executable, "-c", ASK_UNTIL_STOPPED, store_url, provider.base_url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        os.kill(process.pid, sent)
        process.communicate(timeout=30)
        assert process.returncode == code
        assert len(provider.calls) < 300
        again = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True)
        assert len(again.stdout.splitlines()) == 300
        counts = Counter(provider.prompts())
    assert len(counts) == 300
    assert sum(counts.values()) - 300 <= 4
