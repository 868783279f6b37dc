"""Caps are caps whatever the server does: each attempt counts, and what nobody told the cost of counts at its most.

With retries as they are by default; only their pauses are short.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapir_core.calls import AnswerStore, CallEngine, Spend
from tapir_core.config import BudgetConfig, CallsConfig, Sampling
from tests.doubles.batches import BatchRules
from tests.doubles.provider import FakeProvider, FakeReply, Hang, RecordedCall, Status, Text, make_request
from tests.doubles.standin import StandinServer
from tests.tapir_core.calls.batch_helpers import batch_endpoint, batch_states, logged, paid_twice, sums
from tests.tapir_core.calls.engine_helpers import texts
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
HURRIED = CallsConfig(backoff_seconds=0.001, max_backoff_seconds=0.002, timeout_seconds=0.2, dead_after_seconds=60)
PATIENT = HURRIED.model_copy(update={"timeout_seconds": 60.0})
PRICES = {"usd_per_million_prompt_tokens": 1000.0, "usd_per_million_completion_tokens": 1000.0}
MOST_TOKENS = 29
"""Of one of the questions below: 5 of its text, 16 of its frame and 8 of the answer. At most 0.029 USD."""
BILLED_TOKENS = 15


def always_500(_: RecordedCall) -> FakeReply:
    return Status(500, {"error": {"message": "no"}})


def always_late(_: RecordedCall) -> FakeReply:
    return Hang()


def bills_errors(_: RecordedCall) -> FakeReply:
    return Text("half", finish_reason="error", prompt_tokens=10, completion_tokens=5)


def questions(count: int) -> list:
    return [make_request(f"question {number:06}", sampling=Sampling(max_tokens=8)) for number in range(count)]


def ask_in_vain(store_url: str, script, *, starts: int = 2, **caps: object) -> tuple[int, Spend]:
    """How many calls reach a server whose askers, one after another, have these caps together; and what is booked.

    A call that times out may not have reached it.
    """
    budget = BudgetConfig.model_validate(caps)
    with FakeProvider(script) as provider:
        for _ in range(starts):
            with CallEngine(AnswerStore(store_url), HURRIED, run="a-run", budget=budget) as engine:
                outcomes = engine.ask(questions(40), lambda: provider.endpoint(concurrency=8, **PRICES))
                assert "budget" in texts(outcomes)
                booked = engine.paid()["teach"]
        return len(provider.calls), booked


@pytest.mark.parametrize("script", [always_500, always_late, bills_errors])
@pytest.mark.parametrize("caps", [{"requests": 10}, {"stages": {"teach": {"requests": 10}}}])
def test_no_more_requests_are_sent_than_the_cap_says_retries_included(store_url: str, script, caps: dict[str, object]):
    calls, booked = ask_in_vain(store_url, script, **caps)
    assert calls <= booked.requests == 10


@pytest.mark.parametrize("caps", [{"usd": 0.3}, {"tokens": 300}, {"stages": {"teach": {"usd": 0.3}}}])
def test_time_outs_are_booked_at_the_most_that_they_can_cost(store_url: str, caps: dict[str, object]):
    calls, booked = ask_in_vain(store_url, always_late, **caps)
    assert calls <= booked.requests == 300 // MOST_TOKENS
    assert booked.usd == pytest.approx(booked.requests * MOST_TOKENS * 0.001)


@pytest.mark.parametrize("caps", [{"usd": 0.3}, {"tokens": 300}, {"stages": {"teach": {"tokens": 300}}}])
def test_answers_that_are_billed_and_broken_off_count_as_billed(store_url: str, caps: dict[str, object]):
    calls, booked = ask_in_vain(store_url, bills_errors, **caps)
    assert calls == booked.requests
    assert 300 - MOST_TOKENS <= calls * BILLED_TOKENS <= 300


def test_errors_that_cost_nothing_use_no_money_up(store_url: str):
    budget = BudgetConfig(usd=0.1)
    with (
        FakeProvider(always_500) as provider,
        CallEngine(AnswerStore(store_url), HURRIED, run="a-run", budget=budget) as engine,
    ):
        assert set(texts(engine.ask(questions(3), lambda: provider.endpoint(**PRICES)))) == {"server"}
        paid = engine.paid()
        assert sum(each.usd for each in paid.values()) == pytest.approx(0)
        assert sum(each.requests for each in paid.values()) == len(provider.calls)
        assert paid["teach"].requests == 3 * HURRIED.retries.server


def test_a_refused_key_costs_nothing_of_what_was_in_flight(store_url: str):
    def refuse_one(call: RecordedCall) -> FakeReply:
        return Status(401, {"error": {"message": "wrong key"}}) if "000000" in call.prompt else Hang()

    with FakeProvider(refuse_one) as provider, CallEngine(AnswerStore(store_url), CallsConfig(), run="a-run") as engine:
        assert set(texts(engine.ask(questions(5), lambda: provider.endpoint(**PRICES)))) == {"unauthorized"}
        assert engine.paid()["teach"].usd == pytest.approx(0)


def test_an_answer_without_usage_is_booked_at_the_most_that_it_can_cost(store_url: str):
    def no_usage(_: RecordedCall) -> FakeReply:
        return Status(200, {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]})

    with FakeProvider(no_usage) as provider, CallEngine(AnswerStore(store_url), HURRIED, run="a-run") as engine:
        assert texts(engine.ask(questions(1), lambda: provider.endpoint(**PRICES))) == ["fine"]
        assert engine.paid()["teach"].usd == pytest.approx(0.029)


IN_STAGE = {"stages": {"teach": {"requests": 100}}}


@pytest.mark.parametrize("caps", [{"requests": 100}, {"usd": 1.0}, {"tokens": 1000}, IN_STAGE])
def test_rows_of_batches_that_fail_at_the_provider_count_too(store_url: str, tmp_path: Path, caps: dict[str, Any]):
    log_path, budget = tmp_path / "log.jsonl", BudgetConfig.model_validate(caps)
    rows = sums(60, sampling=Sampling(max_tokens=8))
    with StandinServer(batches=BatchRules(seconds=0.05, fail_share=0.9), log_path=log_path) as server:
        for _ in range(2):
            with CallEngine(AnswerStore(store_url), HURRIED, run="a-run", budget=budget) as engine:
                engine.ask(rows, lambda: batch_endpoint(server, price=1000.0))
                spent = engine.paid()["teach"]
    sent = len(logged(log_path))
    assert 60 < sent == spent.requests <= (100 if caps == IN_STAGE else caps.get("requests", sent))
    assert spent.usd <= caps.get("usd", 10.0)
    assert spent.prompt_tokens + spent.completion_tokens <= caps.get("tokens", 10_000)


def test_a_batch_that_the_provider_never_made_costs_nothing(store_url: str):
    with StandinServer(batches=BatchRules(max_rows=5)) as server:
        budget = BudgetConfig(requests=200)
        with CallEngine(AnswerStore(store_url), HURRIED, run="a-run", budget=budget) as engine:
            assert set(texts(engine.ask(sums(20), lambda: batch_endpoint(server)))) == {"connection"}
            assert engine.paid()["teach"].requests == 0


ASK = """
import sys
from tapir_core.calls import AnswerStore, CallEngine, Endpoint
from tapir_core.config import BudgetConfig
from tests.tapir_core.calls.test_caps_hold import PATIENT, PRICES, questions

url, base_url, caps = sys.argv[1:]
budget = BudgetConfig.model_validate_json(caps)
with CallEngine(AnswerStore(url), PATIENT, run="a-run", budget=budget) as engine:
    engine.ask(questions(400), lambda: Endpoint(base_url, 8, **PRICES))
"""


@pytest.mark.parametrize(
    "caps",
    [
        '{"requests": 60}',
        *(
            pytest.param(each, marks=pytest.mark.operations)
            for each in ('{"usd": 1.74}', '{"stages": {"teach": {"tokens": 1740}}}')
        ),
    ],
)
def test_five_kills_leave_what_was_in_flight_booked_and_the_cap_a_cap(store_url: str, caps: str):
    """Each start sends eight calls that nobody answers, and is killed; the last one finds what is left answered."""
    AnswerStore(store_url).close()
    with FakeProvider(always_late) as provider:
        for start in range(1, 6):
            process = subprocess.Popen([sys.executable, "-c", ASK, store_url, provider.base_url, caps], cwd=ROOT)
            deadline = time.monotonic() + 60
            while len(provider.calls) < 8 * start:
                assert time.monotonic() < deadline, f"{len(provider.calls)} calls after start {start}"
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        in_flight = len(provider.calls)
        assert in_flight == 40, "nothing is booked that was not sent, and nothing sent that was not booked"
        provider.script = lambda _: Text("fine", prompt_tokens=21, completion_tokens=8)
        subprocess.run([sys.executable, "-c", ASK, store_url, provider.base_url, caps], cwd=ROOT, check=True)
        assert len(provider.calls) == 60
    with AnswerStore(store_url) as store:
        assert store.spend_by_role("a-run")["teach"].requests == 60


ASK_BATCHES = """
import sys
from tapir_core.calls import AnswerStore, CallEngine
from tapir_core.config import BudgetConfig
from tests.tapir_core.calls.batch_helpers import QUICK, batch_endpoint, sums

with CallEngine(AnswerStore(sys.argv[1]), QUICK, run="a-run", budget=BudgetConfig(requests=60)) as engine:
    engine.ask(sums(100), lambda: batch_endpoint(sys.argv[2], max_rows=20))
"""


def test_five_kills_during_batches_leave_the_cap_a_cap(store_url: str, tmp_path: Path):
    log_path = tmp_path / "log.jsonl"
    AnswerStore(store_url).close()
    with StandinServer(batches=BatchRules(seconds=15), log_path=log_path) as server:
        command = [sys.executable, "-c", ASK_BATCHES, store_url, server.base_url]
        for _ in range(5):
            process = subprocess.Popen(command, cwd=ROOT)
            wait_until(lambda: batch_states(store_url)[:3] == [("made", 20)] * 3, seconds=60)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        subprocess.run(command, cwd=ROOT, check=True)
    assert len(logged(log_path)) == 60
    assert paid_twice(log_path) == []
    with AnswerStore(store_url) as store:
        assert store.spend_by_role("a-run")["teach"].requests == 60


def test_spending_follows_the_id_of_a_run_and_not_its_name(store_url: str):
    """A new run under a deleted run's name inherits nothing, and two roots on one database share no cap."""
    budget, named = BudgetConfig(requests=10), [replace(each, run="quickstart") for each in questions(20)]
    with FakeProvider() as provider:
        for run, some in (("first-id", named[:10]), ("second-id", named[10:])):
            with CallEngine(AnswerStore(store_url), PATIENT, run=run, budget=budget) as engine:
                assert Counter(each.startswith("echo") for each in texts(engine.ask(some, provider.endpoint))) == {
                    True: 10
                }
