"""Interrupts, closing and death of the process: what came is kept, and nobody waits for ever."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from queue import SimpleQueue

import pytest

from tapir_core.calls import CallEngine, Endpoint, Outcome, Watch
from tapir_core.config import CallsConfig
from tapir_core.errors import TapirError
from tests.doubles.provider import (
    FakeProvider,
    Hang,
)
from tests.tapir_core.calls.engine_helpers import never, open_engine, prompts, texts

pytestmark = pytest.mark.slow

ASK_UNTIL_STOPPED = """
import signal, sys
from tapir_core.calls import AnswerStore, CallEngine, Endpoint, Watch
from tapir_core.config import CallsConfig
from tests.doubles.provider import make_request

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background has it ignored
url, base_url = sys.argv[1:]
requests = [make_request(f"question {number}") for number in range(60)]
with CallEngine(AnswerStore(url), CallsConfig(), run="a-run") as engine:
    engine.ask(requests, lambda: Endpoint(base_url, 4), Watch(lambda *_: print(flush=True)))
"""


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
            engine.ask(prompts(40), lambda: provider.endpoint(concurrency=2), Watch(on_outcome))
        with open_engine(store_url, quick) as engine:
            assert 1 <= engine.count_stored(prompts(40)) <= 4
            engine.ask(prompts(40), provider.endpoint)
        twice = [prompt for prompt, times in Counter(provider.prompts()).items() if times > 1]
        assert len(twice) <= 2


def test_what_was_on_its_way_at_an_interrupt_goes_to_those_who_joined(engine: CallEngine):
    joined: list[list[Outcome]] = []
    second = threading.Thread(target=lambda: joined.append(engine.ask(prompts(8), provider.endpoint)))

    def interrupt(_: int, __: Outcome) -> None:
        second.start()
        while engine.count_stored(prompts(8)) < 8:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with FakeProvider() as provider:
        with pytest.raises(KeyboardInterrupt):
            engine.ask(prompts(8), provider.endpoint, Watch(interrupt))
        second.join()
        assert len(provider.calls) == 8
    assert texts(joined[0]) == [f"echo: question {number}" for number in range(8)]


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


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(signal.SIGINT, -signal.SIGINT, marks=pytest.mark.operations),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_stopped_process_pays_twice_for_nothing_but_what_was_in_flight(store_url: str, sent: int, code: int):
    with FakeProvider(latency_seconds=0.1) as provider:
        command = [sys.executable, "-c", ASK_UNTIL_STOPPED, store_url, provider.base_url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        os.kill(process.pid, sent)
        process.communicate(timeout=30)
        assert process.returncode == code
        assert len(provider.calls) < 60
        again = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True)
        assert len(again.stdout.splitlines()) == 60
        counts = Counter(provider.prompts())
    assert len(counts) == 60
    assert sum(counts.values()) - 60 <= 4


def test_who_sends_nothing_more_keeps_what_was_in_flight_and_pays_for_it_once(store_url: str, quick: CallsConfig):
    def stop_after_five(_: int, outcome: Outcome) -> None:
        told.append(outcome)
        if len(told) == 5:
            engine.stop_sending()

    told: list[Outcome] = []
    with FakeProvider(latency_seconds=0.02) as provider:
        with open_engine(store_url, quick) as engine:
            outcomes = engine.ask(prompts(40), lambda: provider.endpoint(concurrency=4), Watch(stop_after_five))
            sent = len(provider.calls)
            assert 5 <= sent < 15
            assert Counter(texts(outcomes))["stopped"] == 40 - sent
            assert texts(engine.ask(prompts(50), never)) == texts(outcomes) + ["stopped"] * 10, "no endpoint is begun"
        with open_engine(store_url, quick) as engine:
            engine.ask(prompts(40), provider.endpoint)
        assert sorted(provider.prompts()) == sorted(f"question {number}" for number in range(40))


def test_an_interrupt_before_the_first_request_is_sent_ends_the_asking(
    engine: CallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(SimpleQueue[object]):
        def get(self, *_: object) -> object:
            raise KeyboardInterrupt

    def busy() -> Endpoint:
        # The loop comes to what was asked only after the interrupt.
        engine._loop.call_soon_threadsafe(time.sleep, 0.2)
        return Endpoint("http://127.0.0.1:9/v1", 8)

    monkeypatch.setattr("tapir_core.calls.engine.SimpleQueue", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.ask(prompts(3), busy)
    assert engine.count_stored(prompts(3)) == 0
