"""Addresses that come and go while they are asked: nothing is lost, nothing answered is asked again."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import pytest

from tapir_core.calls import AnswerStore, CallEngine, Endpoint, Failure, Outcome
from tapir_core.calls.endpoint import Line
from tapir_core.calls.types import LiveAddress, LiveAddresses
from tapir_core.config import CallsConfig
from tests import waiting
from tests.doubles.provider import FakeProvider, FakeReply, Hang, RecordedCall, Status, echo, make_request
from tests.tapir_core.calls.engine_helpers import UnbookedAttempts, open_engine, prompts, texts

wait_until = partial(waiting.wait_until, seconds=20, every=0.002)

ANSWERS = [f"echo: question {number}" for number in range(1000)]


def address(provider: FakeProvider, *, concurrency: int = 4, api_key: str = "a-key-of-its-own") -> LiveAddress:
    return LiveAddress(provider.base_url, concurrency, api_key)


def source(live: LiveAddresses) -> Callable[[], Endpoint]:
    return lambda: Endpoint("replicas of a student", 8, live=live)


@contextmanager
def asking(engine: CallEngine, live: LiveAddresses, count: int) -> Iterator[list[Outcome]]:
    """Ask in a thread; at the end of the block the list holds every outcome."""
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.extend(engine.ask(prompts(count), source(live))))
    thread.start()
    yield outcomes
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_load_is_balanced_over_those_that_are_there_each_with_its_own_key(engine: CallEngine):
    live = LiveAddresses()
    with FakeProvider(latency_seconds=0.01) as first, FakeProvider(latency_seconds=0.01) as second:
        live.set([address(first, api_key="key-of-the-first"), address(second, api_key="key-of-the-second")])
        assert texts(engine.ask(prompts(60), source(live))) == ANSWERS[:60]
        assert min(len(first.calls), len(second.calls)) >= 20
        for provider, key in ((first, "key-of-the-first"), (second, "key-of-the-second")):
            assert {call.headers["Authorization"] for call in provider.calls} == {f"Bearer {key}"}
            assert provider.most_at_once <= 4


def test_one_dies_in_the_middle_a_late_one_joins_and_every_answer_arrives_once(engine: CallEngine):
    live, count = LiveAddresses(), 300
    with ExitStack() as dying, FakeProvider(latency_seconds=0.01) as steady, FakeProvider(latency_seconds=0.01) as late:
        mortal = dying.enter_context(FakeProvider(latency_seconds=0.01))
        live.set([address(mortal), address(steady)])
        with asking(engine, live, count) as outcomes:
            wait_until(lambda: len(mortal.calls) > 20)
            dying.close()
            live.set([address(steady), address(late)])
        assert texts(outcomes) == ANSWERS[:count]
        assert len(late.calls) > 20
        asked = [*mortal.prompts(), *steady.prompts(), *late.prompts()]
        assert len(asked) - len(set(asked)) <= 4, "only what was in flight at the one that died"


def test_what_is_in_flight_at_one_that_is_said_to_be_gone_is_not_waited_for(engine: CallEngine):
    live = LiveAddresses()
    with FakeProvider(lambda _: Hang()) as lost, FakeProvider() as other:
        live.set([address(lost)])
        with asking(engine, live, 12) as outcomes:
            wait_until(lambda: len(lost.calls) == 4)
            live.set([address(other)])
        assert texts(outcomes) == ANSWERS[:12]


def test_while_none_is_there_calls_wait_and_spend_no_attempts(engine: CallEngine):
    live = LiveAddresses()
    with FakeProvider(latency_seconds=0.01) as first, FakeProvider() as second:
        live.set([address(first)])
        with asking(engine, live, 100) as outcomes:
            wait_until(lambda: len(first.calls) > 20)
            live.set([])
            time.sleep(0.2)
            assert not outcomes
            live.set([address(second)])
        assert texts(outcomes) == ANSWERS[:100]
    assert engine.spend().sent <= 100 + 4


def test_the_last_one_that_stops_answering_is_probed_and_costs_no_row(engine: CallEngine):
    live, down = LiveAddresses(), threading.Event()

    def script(call: RecordedCall) -> FakeReply:
        return Status(503) if down.is_set() else echo(call)

    with FakeProvider(script, latency_seconds=0.005) as provider:
        live.set([address(provider)])
        with asking(engine, live, 200) as outcomes:
            wait_until(lambda: len(provider.calls) > 40)
            down.set()
            time.sleep(0.3)
            down.clear()
        assert texts(outcomes) == ANSWERS[:200]


def test_when_none_will_come_everybody_is_told_why_and_the_next_asker_may_find_one(engine: CallEngine):
    live = LiveAddresses()
    with FakeProvider(latency_seconds=0.01) as provider:
        live.set([address(provider)])
        with asking(engine, live, 100) as outcomes:
            wait_until(lambda: len(provider.calls) > 20)
            live.set((), given_up="every replica ended: no GPU")
        assert {outcome.message for outcome in outcomes if isinstance(outcome, Failure)} == {
            "every replica ended: no GPU"
        }
        assert set(texts(outcomes)[-50:]) == {"connection"}
        live.set([address(provider)])
        assert texts(engine.ask(prompts(100), source(live))) == ANSWERS[:100]


def test_the_only_one_that_refuses_every_key_ends_the_waiting_with_its_reason(engine: CallEngine):
    live = LiveAddresses()
    with FakeProvider(lambda _: Status(401, {"error": {"message": "wrong key"}})) as provider:
        live.set([address(provider)])
        endpoint = replace(source(live)(), api_key_env="FLEET_SECRET")
        outcomes = engine.ask(prompts(50), lambda: endpoint)
    assert {outcome.kind for outcome in outcomes if isinstance(outcome, Failure)} == {"unauthorized"}
    assert "wrong key" in outcomes[0].message
    assert "FLEET_SECRET" in outcomes[0].message


def test_one_that_serves_but_cannot_be_reached_is_given_up_after_a_stated_time(store_url: str):
    config = CallsConfig(dead_after_seconds=0.3, backoff_seconds=0.01, max_backoff_seconds=0.05)
    live = LiveAddresses()
    live.set([LiveAddress("http://127.0.0.1:1/v1", 4)])
    with open_engine(store_url, config) as engine:
        outcomes = engine.ask(prompts(20), source(live))
    assert "http://127.0.0.1:1/v1 has answered nothing for 0.3 s" in outcomes[-1].message


def test_a_set_that_changes_after_the_engine_was_closed_disturbs_nobody(store_url: str, quick: CallsConfig):
    live = LiveAddresses()
    with FakeProvider() as provider:
        live.set([address(provider)])
        with CallEngine(AnswerStore(store_url), quick, run="a-run") as engine:
            engine.ask(prompts(3), source(live))
        live.set([])


def test_who_waits_for_an_address_is_woken_by_one_or_by_the_end_of_hope():
    for change in (
        lambda live: live.set([LiveAddress("http://a", 1)]),
        lambda live: live.set((), given_up="no worker"),
    ):
        live = LiveAddresses()
        assert not live.wait(0.001)
        threading.Timer(0.02, change, [live]).start()
        assert live.wait(20)


def test_who_is_interrupted_while_the_endpoint_is_given_up_ends_as_interrupted_and_the_others_are_told():
    async def run(endpoint: Endpoint, live: LiveAddresses) -> None:
        line = Line(endpoint, CallsConfig(), rng=random.Random(1), books=UnbookedAttempts())
        line.admit(endpoint)
        slots = [await line.slot() for _ in range(3)]
        hung, limited, interrupted = [
            asyncio.create_task(line.answer("key", make_request(prompt), endpoint, slot))
            for prompt, slot in zip(["hang", "wait", "hang"], slots, strict=True)
        ]
        late = asyncio.create_task(line.slot())
        while slots[1].at is not None or len(provider.calls) < 3:
            await asyncio.sleep(0.01)
        await late
        waiting = asyncio.create_task(line.slot())
        live.set((), given_up="no GPU")
        interrupted.cancel()
        for told in (hung, limited):
            assert (await told).outcome == Failure("connection", "no GPU", attempts=1)
        with pytest.raises(asyncio.CancelledError):
            await interrupted
        assert (await waiting).at is None
        await line.close()

    def script(call: RecordedCall) -> FakeReply:
        return Hang() if call.prompt == "hang" else Status(429, headers={"Retry-After": "60"})

    live = LiveAddresses()
    with FakeProvider(script) as provider:
        live.set([address(provider, concurrency=3)])
        asyncio.run(asyncio.wait_for(run(source(live)(), live), timeout=20))
