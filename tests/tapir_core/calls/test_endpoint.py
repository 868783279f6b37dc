"""One endpoint and its addresses: balance, what fails is taken out and comes back, limits per minute, retries."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tapir_core.calls import Answer, Endpoint, Failure, Outcome, Request, Spend
from tapir_core.calls.endpoint import Address, Line
from tapir_core.calls.wire import Reply
from tapir_core.config import CallsConfig
from tapir_core.config.run import RetriesConfig
from tests.doubles.provider import (
    Drop,
    FakeProvider,
    FakeReply,
    RecordedCall,
    Status,
    Text,
    echo,
    in_turn,
    make_request,
)
from tests.tapir_core.calls.engine_helpers import UnbookedAttempts

QUICK = {"backoff_seconds": 0.005, "max_backoff_seconds": 0.02, "timeout_seconds": 5.0}
DENIED = Status(401, {"error": {"message": "wrong key"}})


def ask(endpoint: Endpoint, count: int, *, pause: float = 0.0, **config: Any) -> list[Outcome]:
    """The outcomes of so many requests; with a pause between their starts, when time has to pass."""

    async def run() -> list[Outcome]:
        line = Line(endpoint, CallsConfig(**{**QUICK, **config}), rng=random.Random(1), books=UnbookedAttempts())

        async def one(number: int) -> Outcome:
            return (await answer(line, make_request(f"question {number}"), endpoint)).outcome

        try:
            tasks = []
            for number in range(count):
                tasks.append(asyncio.create_task(one(number)))
                await asyncio.sleep(pause)
            return await asyncio.gather(*tasks)
        finally:
            await line.close()

    return asyncio.run(run())


async def answer(line: Line, request: Request, endpoint: Endpoint) -> Reply:
    slot = await line.slot()
    try:
        return await line.answer("key", request, endpoint, slot)
    finally:
        slot.release()


def both(first: FakeProvider, second: FakeProvider, **fields: Any) -> Endpoint:
    return first.endpoint(more_base_urls=(second.base_url,), **fields)


def answers(outcomes: list[Outcome]) -> int:
    return sum(isinstance(outcome, Answer) for outcome in outcomes)


def test_calls_are_spread_over_all_addresses():
    with FakeProvider(latency_seconds=0.01) as first, FakeProvider(latency_seconds=0.01) as second:
        assert answers(ask(both(first, second, concurrency=4), 40)) == 40
        assert min(len(first.calls), len(second.calls)) >= 15
        assert max(first.most_at_once, second.most_at_once) <= 4


def test_a_faster_address_gets_more():
    with FakeProvider(latency_seconds=0.1) as slow, FakeProvider(latency_seconds=0.005) as fast:
        assert answers(ask(both(slow, fast, concurrency=2), 60)) == 60
        assert len(fast.calls) > 2 * len(slow.calls)


def test_an_address_that_is_gone_costs_no_row():
    with FakeProvider(latency_seconds=0.005) as alive:
        endpoint = alive.endpoint(concurrency=4, more_base_urls=("http://127.0.0.1:1/v1",))
        assert answers(ask(endpoint, 60)) == 60
        assert len(alive.calls) == 60


@pytest.mark.parametrize("trouble", [Drop(), Status(503), DENIED, Status(404)])
def test_an_address_that_fails_is_taken_out_while_another_is_there(trouble: FakeReply):
    with FakeProvider(lambda _: trouble, latency_seconds=0.002) as broken, FakeProvider(latency_seconds=0.005) as good:
        # The first probe is due after a minute, however long a busy machine takes.
        assert answers(ask(both(broken, good, concurrency=4), 80, backoff_seconds=60.0)) == 80
        assert 1 <= len(broken.calls) <= 8, "no more than may be in flight at both"


def test_an_address_that_was_taken_out_comes_back_after_one_good_probe():
    begun: list[float] = []

    def script(call: RecordedCall) -> FakeReply:
        begun.append(call.arrived)
        return echo(call) if call.arrived - begun[0] > 0.1 else Drop()

    with FakeProvider(script) as first, FakeProvider() as second:
        assert answers(ask(both(first, second, concurrency=4), 120, pause=0.005)) == 120
        good = [call for call in first.calls if call.arrived - begun[0] > 0.1]
        assert len(good) >= 20


def test_when_all_addresses_are_gone_one_error_names_them():
    with FakeProvider(lambda _: Drop()) as first, FakeProvider(lambda _: Drop()) as second:
        endpoint = both(first, second, concurrency=4)
        outcomes = ask(endpoint, 20, dead_after_seconds=0.2, max_attempts=1000, retries={"connection": 1000})
    messages = {outcome.message for outcome in outcomes if isinstance(outcome, Failure)}
    (message,) = messages
    assert "none of the 2 addresses answers" in message
    assert all(url in message for url in endpoint.base_urls)


def test_when_all_addresses_refuse_the_key_one_error_says_which_variable_to_set():
    with FakeProvider(lambda _: DENIED) as first, FakeProvider(lambda _: DENIED) as second:
        endpoint = both(first, second, concurrency=2, api_key="sk-12345678", api_key_env="MY_KEY")
        # So long until a probe that none comes while the other address is slow to refuse.
        outcomes = ask(endpoint, 10, backoff_seconds=60.0, max_backoff_seconds=60.0)
        assert len(first.calls) + len(second.calls) <= 4
    assert {outcome.kind for outcome in outcomes if isinstance(outcome, Failure)} == {"unauthorized"}
    assert all("MY_KEY" in outcome.message for outcome in outcomes if isinstance(outcome, Failure))


def test_each_kind_of_trouble_is_tried_again_as_often_as_its_own_limit_allows():
    retries = {"connection": 2, "rate_limited": 4, "server": 3, "timeout": 1}
    for trouble, attempts in ((Drop(), 2), (Status(429), 4), (Status(500), 3)):
        with FakeProvider(lambda _, trouble=trouble: trouble) as provider:
            (outcome,) = ask(provider.endpoint(), 1, retries=retries)
            assert Counter(provider.prompts())["question 0"] == attempts
            assert isinstance(outcome, Failure)
            assert outcome.attempts == attempts


def test_the_default_limits_outlast_a_restart_but_pay_for_few_time_outs():
    retries = RetriesConfig()
    assert retries.timeout < retries.server < retries.connection <= CallsConfig().max_attempts


def test_an_endpoint_may_wait_longer_for_a_reply_than_all_others() -> None:
    with FakeProvider(latency_seconds=0.5) as provider:
        hurried = provider.endpoint()
        patient = replace(hurried, timeout_seconds=30.0)
        quick: dict[str, Any] = {"timeout_seconds": 0.1, "max_attempts": 1}
        assert [each.kind for each in ask(hurried, 1, **quick) if isinstance(each, Failure)] == ["timeout"]
        assert [type(each) for each in ask(patient, 1, **quick)] == [Answer]


def test_requests_per_minute_are_kept():
    with FakeProvider() as provider:
        began = time.monotonic()
        assert answers(ask(provider.endpoint(concurrency=8, requests_per_minute=600.0), 18)) == 18
        # Ten at once, the others at ten a second.
        assert provider.calls[-1].arrived - began >= 0.7


def test_a_spent_account_pauses_everybody_for_its_retry_after():
    spent = Status(429, headers={"Retry-After": "0.4", "x-ratelimit-remaining-requests": "0"})
    with FakeProvider(in_turn(spent, *[Text("fine")] * 10)) as provider:
        ask(provider.endpoint(concurrency=1), 6, pause=0.01)
        first, *others = (call.arrived for call in provider.calls)
    assert len(others) == 6
    assert min(others) - first >= 0.39


def test_another_429_holds_back_its_own_row_only():
    limited = Counter[str]()

    def script(call: RecordedCall) -> FakeReply:
        limited[call.prompt] += 1
        if call.prompt == "question 0" and limited[call.prompt] == 1:
            return Status(429, headers={"Retry-After": "0.4"})
        return echo(call)

    with FakeProvider(script) as provider:
        assert answers(ask(provider.endpoint(concurrency=1), 6)) == 6
        prompts = provider.prompts()
        waited = provider.calls[-1].arrived - provider.calls[0].arrived
    assert prompts[-1] == "question 0"
    assert waited >= 0.4


def test_limits_learned_for_one_model_do_not_hold_back_another():
    # One request a minute is left for the first model; the second has none to keep.
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-limit-requests": "1",
        "x-ratelimit-reset-requests": "60s",
    }
    choice = {"message": {"content": "fine"}, "finish_reason": "stop"}

    def script(call: RecordedCall) -> FakeReply:
        return Status(200, {"choices": [choice]}, headers if call.body["model"] == "scarce" else {})

    async def run(endpoint: Endpoint) -> list[Outcome]:
        line = Line(endpoint, CallsConfig(**QUICK), rng=random.Random(1), books=UnbookedAttempts())
        outcomes = []
        try:
            for model in ("scarce", "plenty", "plenty"):
                reply = await asyncio.wait_for(answer(line, make_request(model=model), endpoint), timeout=5)
                outcomes.append(reply.outcome)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(answer(line, make_request(model="scarce"), endpoint), timeout=0.1)
            assert not any(each.calls.in_flight for each in line.addresses.values())
            return outcomes
        finally:
            await line.close()

    with FakeProvider(script) as provider:
        assert answers(asyncio.run(run(provider.endpoint()))) == 3
        assert len(provider.calls) == 3


def test_connections_opened_while_the_former_ones_are_closed_stay_open() -> None:
    async def run(endpoint: Endpoint) -> list[Reply]:
        address = Address(endpoint.base_url, endpoint.concurrency, CallsConfig(**QUICK))
        replies = [await address.client(endpoint).send(make_request())]
        closing = asyncio.create_task(address.close())
        await asyncio.sleep(0)
        address.client(endpoint)
        await closing
        replies.append(await address.client(endpoint).send(make_request()))
        await address.close()
        return replies

    with FakeProvider(echo) as provider:
        replies = asyncio.run(run(provider.endpoint()))
    assert answers([each.outcome for each in replies]) == 2


def test_what_a_provider_charged_for_replies_that_broke_off_is_counted():
    async def run(endpoint: Endpoint) -> Reply:
        line = Line(endpoint, CallsConfig(**QUICK), rng=random.Random(1), books=UnbookedAttempts())
        try:
            return await answer(line, make_request(), endpoint)
        finally:
            await line.close()

    broken = Text("half", finish_reason="error", prompt_tokens=10, completion_tokens=3)
    with FakeProvider(in_turn(broken, broken, Text("7", prompt_tokens=10, completion_tokens=5))) as provider:
        reply = asyncio.run(run(provider.endpoint()))
    assert isinstance(reply.outcome, Answer)
    assert (reply.outcome.text, reply.outcome.completion_tokens) == ("7", 5)
    assert reply.spent == Spend(3, 30, 11)
