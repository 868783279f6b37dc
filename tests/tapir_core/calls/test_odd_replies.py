"""Replies and accounts as no documentation has them: nothing that was paid is lost, asked again or kept as rubbish."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import update

from tapir_core.calls import Answer, AnswerStore, CallEngine, Outcome
from tapir_core.calls.batch_client import BatchClient, read_line
from tapir_core.calls.limits import RateLimit, Rates, read_rate_limits
from tapir_core.calls.store_tables import holders, open_engine
from tapir_core.calls.store_writer import GroupWriter
from tapir_core.calls.words import as_kept
from tapir_core.config import BudgetConfig, CallsConfig, Sampling
from tests.doubles.batches import BatchRules
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text, make_request
from tests.doubles.standin import StandinServer
from tests.tapir_core.calls.batch_helpers import batch_endpoint, batch_states, logged, open_batch_engine, sums
from tests.tapir_core.calls.engine_helpers import prompts, texts
from tests.waiting import wait_until

USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


def completion(content: str = "fine", usage: Mapping[str, Any] = USAGE, finish: str = "stop", **more: Any) -> Any:
    message = {"role": "assistant", "content": content, **more}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


ODD = {
    "half an emoji in the thoughts": completion(reasoning_content="half \ud83d"),
    "NUL in the thoughts": completion(reasoning_content="nul \x00 there"),
    "half an emoji in the finish reason": completion(finish="odd \ud83d"),
    "NUL in the finish reason": completion(finish="odd \x00"),
    "a refusal with NUL": completion(refusal="no \x00"),
    "an impossible count": completion(usage={**USAGE, "total_tokens": 5_000_000_000}),
    "two counts that are impossible together": completion(usage={"prompt_tokens": 2**30, "completion_tokens": 2**31}),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=[*ODD])
def test_a_reply_that_no_database_takes_is_kept_and_takes_no_other_along(odd: Any, store_url: str, quick: CallsConfig):
    keep_beside_others(odd, store_url, quick)


def keep_beside_others(odd: Any, store_url: str, config: CallsConfig) -> None:
    """Ask for something that is answered so, and seven others: all is kept."""

    def script(call: RecordedCall) -> FakeReply:
        return Status(200, odd) if call.prompt == "odd" else Text("fine")

    requests = [*prompts(7), make_request("odd")]
    with (
        FakeProvider(script, latency_seconds=0.05) as provider,
        CallEngine(AnswerStore(store_url), config, run="a") as engine,
    ):
        engine.forget(requests)
        engine.ask(requests, lambda: provider.endpoint(thinking="keep"))
        assert len(provider.calls) == 8
        assert engine.count_stored(requests) == 8


def test_what_a_database_refuses_of_one_write_takes_no_other_along():
    def commit(writes: Sequence[int]) -> Sequence[int]:
        if 3 in writes:
            raise ValueError("not this one")
        return writes

    writer = GroupWriter("test", commit)
    results = [writer.submit(number) for number in range(6)]
    writer.close()
    assert [each.exception() is None for each in results] == [True, True, True, False, True, True]


@pytest.mark.parametrize("key", ["anything", "placeholder", "lm-studio", "not-needed"])
def test_a_word_in_place_of_a_key_stays_in_answers(engine: CallEngine, key: str):
    said = f"You may write {key} there."
    with FakeProvider(lambda _: Text(said)) as provider:
        assert texts(engine.ask(prompts(1), lambda: provider.endpoint(api_key=key))) == [said]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_longest_answer_among_the_endpoints_own_fields_is_what_a_cap_reserves(
    store_url: str, quick: CallsConfig, field: str
):
    caps = BudgetConfig(tokens=50_000)
    with (
        FakeProvider(lambda call: Text("x", completion_tokens=call.body[field]), latency_seconds=0.05) as provider,
        CallEngine(AnswerStore(store_url), quick, run="a", budget=caps) as engine,
    ):
        engine.ask(prompts(40), lambda: provider.endpoint(body_fields={field: 20_000}, concurrency=32))
        assert len(provider.calls) == 2


def test_an_answer_is_whole_that_ends_before_the_longest_of_the_endpoints_own_fields(engine: CallEngine):
    asked = make_request(sampling=Sampling(max_tokens=1000))
    with FakeProvider(lambda _: Text("x", completion_tokens=1500)) as provider:
        [answer] = engine.ask([asked], lambda: provider.endpoint(body_fields={"max_completion_tokens": 8192}))
    assert isinstance(answer, Answer)
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 10}, {**USAGE, "completion_tokens": 0}, {**USAGE, "completion_tokens": None}, {}]
)
def test_an_answer_whose_tokens_are_not_told_stays_booked_at_the_most(
    store_url: str, quick: CallsConfig, usage: Mapping[str, Any]
):
    prices = {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_completion_tokens": 10.0}
    with (
        FakeProvider(lambda _: Status(200, completion("word " * 100, usage))) as provider,
        CallEngine(AnswerStore(store_url), quick, run="a", budget=BudgetConfig(usd=0.05)) as engine,
    ):
        engine.ask(prompts(40), lambda: provider.endpoint(**prices))
        assert len(provider.calls) == 4  # each reserves 1,024 tokens


@pytest.mark.parametrize("before", ["\n\n", "<think>Two and two.</think>"])
def test_thoughts_that_a_server_puts_apart_and_what_is_left_of_them_are_no_part_of_an_answer(
    engine: CallEngine, before: str
):
    body = completion(f"{before}It is four.", reasoning_content="Two and two.")
    with FakeProvider(lambda _: Status(200, body)) as provider:
        assert texts(engine.ask(prompts(1), provider.endpoint)) == ["It is four."]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Paris", "Paris"),
        ("<think>Okay.</think>\nParis", "<think>\nOkay.\n</think>\n\nParis"),
        ("<think>\nOkay.\n</think>\n\nParis", "<think>\nOkay.\n</think>\n\nParis"),
        ("<think>\n\n</think>\n\nParis", "Paris"),
        ("Write <think> and </think> around it.", "Write <think> and </think> around it."),
    ],
)
def test_thoughts_of_an_answer_of_a_file_are_told_from_it(given: str, kept: str):
    assert as_kept(given) == kept


@pytest.mark.parametrize("status", [200, 201, 203])
def test_every_status_of_success_brings_an_answer(engine: CallEngine, status: int):
    with FakeProvider(lambda _: Status(status, completion())) as provider:
        assert texts(engine.ask(prompts(1), provider.endpoint)) == ["fine"]
        assert len(provider.calls) == 1


class Accounts(FakeProvider):
    """Refuses one account at once, and answers the others after a second."""

    async def _send(self, request: web.Request, reply: FakeReply, call: RecordedCall) -> web.StreamResponse:
        if call.headers["Authorization"] == "Bearer an-account-without-credit":
            return await super()._send(request, Status(402, {"error": {"message": "Insufficient credits"}}), call)
        await asyncio.sleep(1)
        return await super()._send(request, reply, call)


def test_an_account_without_credit_stops_no_other_at_its_address(engine: CallEngine):
    with Accounts() as provider, ThreadPoolExecutor() as threads:
        rich = provider.endpoint(api_key="an-account-with-credit", concurrency=64)
        poor = replace(rich, api_key="an-account-without-credit")
        assert texts(engine.ask([make_request("before")], lambda: rich)) == ["echo: before"]
        first = threads.submit(engine.ask, prompts(20), lambda: rich)
        wait_until(lambda: len(provider.calls) > 10, seconds=10, told="they were not sent")
        second = engine.ask(prompts(20, start=20), lambda: poor)
        assert texts(first.result()) == [f"echo: question {number}" for number in range(20)]
    assert texts(second) == ["unauthorized"] * 20


def test_a_limit_per_day_is_kept_to_as_long_as_the_next_request_is_minutes_away():
    async def delay_after(limit: int, tokens: int) -> float:
        rates = Rates(None, None)
        shown = RateLimit("tokens", 0, limit, reset_seconds=86_400)
        permit = await rates.acquire(tokens)
        rates.finish(permit, used_tokens=tokens, now=permit.sent, limits=[shown])
        return rates.delay(tokens, permit.sent)

    assert asyncio.run(delay_after(864_000, 1000)) == pytest.approx(100, abs=1)
    assert asyncio.run(delay_after(86_400, 1000)) == 0


@pytest.mark.parametrize("reset", ["24h", "1764000000"])
def test_a_reset_that_is_hours_away_is_not_waited_for(engine: CallEngine, reset: str):
    shown = {"limit-requests": "100", "remaining-requests": "0", "reset-requests": reset}
    headers = {f"x-ratelimit-{name}": value for name, value in shown.items()}
    (limit,) = read_rate_limits(headers)
    assert limit.reset_seconds > 0
    with FakeProvider(lambda _: Status(200, completion(), headers)) as provider:
        assert texts(engine.ask(prompts(4), lambda: provider.endpoint(concurrency=1))) == ["fine"] * 4


def test_a_log_probability_that_is_none_is_left_out(engine: CallEngine):
    body = completion()
    found = [{"token": "A", "logprob": 10**400}, {"token": "B", "logprob": -1.5}]
    body["choices"][0]["logprobs"] = {"content": [{"token": "A", "logprob": -0.5, "top_logprobs": found}]}
    with FakeProvider(lambda _: Status(200, body)) as provider:
        [answer] = engine.ask(prompts(1), provider.endpoint)
    assert isinstance(answer, Answer)
    assert answer.logprobs == (("B", -1.5),)


ASKED = make_request(sampling=Sampling(max_tokens=5))


def line(body: Any, status: object = 200) -> bytes:
    return json.dumps({"custom_id": "k", "response": {"status_code": status, "body": body}}).encode()


@pytest.mark.parametrize(
    ("body", "text", "ending"),
    [
        (completion("cut off in the mid"), "cut off in the mid", "length"),
        (completion("whole", {**USAGE, "completion_tokens": 4}), "whole", "stop"),
        (
            completion(
                "Paris.",
                {**USAGE, "completion_tokens": 4},
                tool_calls=[{"id": "1", "type": "function", "function": {"name": "search", "arguments": "{}"}}],
            ),
            "Paris.",
            "stop",
        ),
    ],
    ids=["all its tokens", "fewer", "a call that nobody asked for"],
)
def test_an_answer_of_a_batch_is_what_it_would_be_live(engine: CallEngine, body: Any, text: str, ending: str):
    with FakeProvider(lambda _: Status(200, body)) as provider:
        [live] = engine.ask([ASKED], provider.endpoint)
        _, reply = read_line(line(body), provider.endpoint(), {"k": ASKED}) or ("", None)
    assert reply is not None
    for answer in (live, reply.outcome):
        assert isinstance(answer, Answer)
        assert (answer.text, answer.finish_reason) == (text, ending)


@pytest.mark.parametrize(("status", "is_answer"), [("200", True), (201, True), ("none", False), (None, False)])
def test_a_line_may_spell_its_status_as_a_text(status: object, is_answer: bool):
    with FakeProvider() as provider:
        _, reply = read_line(line(completion(), status), provider.endpoint(), {}) or ("", None)
    assert reply is not None
    assert isinstance(reply.outcome, Answer) is is_answer


@pytest.mark.slow
def test_an_adopted_batch_is_read_with_what_is_asked_now(store_url: str):
    """The store has no messages of a batch's requests: who takes it over brings them, or nothing is seen cut off."""
    with StandinServer(batches=BatchRules(seconds=1.0)) as server:
        with open_batch_engine(store_url) as engine:
            [live] = engine.ask(sums(1), lambda: replace(batch_endpoint(server), batch=None))
        assert isinstance(live, Answer)
        full = Sampling(max_tokens=live.completion_tokens)
        asked = [replace(each, sampling=full, identity="another") for each in sums(2)]
        with open_batch_engine(store_url) as engine, ThreadPoolExecutor() as threads:
            left = threads.submit(engine.ask, asked, lambda: batch_endpoint(server))
            wait_until(lambda: batch_states(store_url) == [("made", 2)], seconds=20, told="no batch was made")
            engine.close()
            assert left.exception() is not None
        with open_batch_engine(store_url) as engine:
            answers = engine.ask(asked, lambda: batch_endpoint(server))
    assert [each.finish_reason for each in answers if isinstance(each, Answer)] == ["length", "length"]


@pytest.mark.slow
def test_who_was_taken_for_dead_while_it_uploaded_makes_no_batch(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    log, upload, others = tmp_path / "log.jsonl", BatchClient.upload, list[Outcome]()

    async def slow(self: BatchClient, name: str, content: bytes) -> str:
        monkeypatch.setattr(BatchClient, "upload", upload)
        found = await self.upload(name, content)
        with open_engine(store_url).begin() as connection:
            connection.execute(update(holders).values(host="elsewhere", boot_id="x", heartbeat=datetime(2020, 1, 1)))
        with open_batch_engine(store_url) as other:
            others.extend(await asyncio.to_thread(other.ask, sums(2), lambda: batch_endpoint(self._endpoint.base_url)))
        return found

    monkeypatch.setattr(BatchClient, "upload", slow)
    with StandinServer(batches=BatchRules(seconds=0.1), log_path=log) as server, open_batch_engine(store_url) as engine:
        outcomes = engine.ask(sums(2), lambda: batch_endpoint(server))
    assert texts(outcomes) == texts(others) == ["Answer: 61", "Answer: 62"]
    assert [line["outcome"] for line in logged(log)] == ["answered", "answered"]


@pytest.mark.slow
def test_a_run_that_is_to_stop_makes_no_further_batch(store_url: str):
    rules = BatchRules(seconds=1.0, fail_share=1.0)
    with (
        StandinServer(batches=rules) as server,
        open_batch_engine(store_url) as engine,
        ThreadPoolExecutor() as threads,
    ):
        asked = threads.submit(engine.ask, sums(2), lambda: batch_endpoint(server))
        wait_until(lambda: batch_states(store_url) == [("made", 2)], seconds=20, told="no batch was made")
        engine.stop_sending()
        assert texts(asked.result(30)) == ["stopped", "stopped"]
    assert [rows for _, rows in batch_states(store_url)] == [2]
