"""What a provider may send back about files and batches, and what becomes of rows whose results are not as promised."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from tempfile import TemporaryFile
from typing import Any, TypeVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from openai.types import Batch

from tapir_core.calls import Answer, AnswerStore, Failure, Outcome
from tapir_core.calls.batch_client import BatchClient, ProviderError
from tapir_core.calls.batch_sending import store_results
from tapir_core.calls.store_writes import OpenBatch, note_batch
from tapir_core.calls.wire import Reply
from tapir_core.config import BatchConfig
from tests.doubles.provider import FakeProvider
from tests.doubles.standin import StandinServer
from tests.tapir_core.calls.batch_helpers import (
    QUICK,
    batch_endpoint,
    batch_states,
    open_batch_engine,
    plan_batch,
    sums,
)

T = TypeVar("T")
TWO_ATTEMPTS = QUICK.model_copy(update={"max_attempts": 2})


async def use_client(base_url: str, use: Callable[[BatchClient], Awaitable[T]]) -> T:
    client = BatchClient(batch_endpoint(base_url), BatchConfig(), TWO_ATTEMPTS)
    try:
        return await use(client)
    finally:
        await client.close()


def open_batch(rows: int = 0) -> OpenBatch:
    requests, now = {each.key: each for each in sums(rows)}, datetime.now(UTC).replace(tzinfo=None)
    return OpenBatch("a-tag", "", requests, dict.fromkeys(requests, 1), now, "file-1", "batch_1", perhaps_made=True)


@pytest.mark.parametrize("body", ["[]", '"yes"', '{"id": "batch_', "<html>welcome</html>"])
def test_a_reply_that_is_no_json_object_is_tried_again_and_then_a_failure_of_the_server(store_url: str, body: str):
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text=body, content_type="application/json")

    async def ask() -> list[Outcome]:
        application = web.Application()
        application.router.add_get("/batches/{id}", answer)
        async with TestServer(application) as server:
            address = str(server.make_url(""))
            with AnswerStore(store_url) as store:
                await asyncio.wrap_future(store.lead(plan_batch("a-tag", address, {r.key: r for r in sums(3)})))
                made = partial(note_batch, tag="a-tag", state="made", input_file_id="file-1", provider_id="batch_1")
                await asyncio.wrap_future(store.lead(made))
            with open_batch_engine(store_url, TWO_ATTEMPTS) as engine:
                return await asyncio.to_thread(engine.ask, sums(3), lambda: batch_endpoint(address))

    outcomes = asyncio.run(ask())
    assert {(each.kind, each.attempts) for each in outcomes if isinstance(each, Failure)} == {("server", 2)}
    assert asked == ["/batches/batch_1"] * 2
    assert batch_states(store_url) == [("made", 3)], "whoever asks next leads it on"


def test_a_no_to_the_search_for_a_batch_is_no_word_on_whether_there_is_one():
    batch = open_batch()
    with FakeProvider() as provider, pytest.raises(ProviderError):
        asyncio.run(use_client(provider.base_url, lambda client: client.create(batch)))
    assert batch.perhaps_made
    assert provider.calls == []


@pytest.mark.parametrize(
    ("status", "perhaps_made"), [(400, False), (404, False), (429, True), (500, True), (302, True)]
)
def test_only_a_clear_no_to_a_creation_says_that_there_is_no_batch(status: int, perhaps_made: bool):
    batch, asked = open_batch(), list[str]()
    batch.perhaps_made = False

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.method)
        return web.json_response({"error": {"message": "oh no"}}, status=status)

    async def create() -> None:
        application = web.Application()
        application.router.add_post("/batches", answer)
        async with TestServer(application) as server:
            await use_client(str(server.make_url("")), lambda client: client.create(batch))

    with pytest.raises(ProviderError):
        asyncio.run(create())
    assert batch.perhaps_made is perhaps_made
    assert asked == ["POST"], "a creation is never repeated unseen"


def test_a_file_that_is_gone_is_said_with_its_status():
    with StandinServer() as server, TemporaryFile() as file, pytest.raises(ProviderError) as raised:
        asyncio.run(use_client(server.base_url, lambda client: client.download("file-gone", file)))
    assert raised.value.status == 404


def line(key: str, text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    return json.dumps({"custom_id": key, "response": {"status_code": 200, "body": body}}).encode() + b"\n"


def test_lines_that_are_double_foreign_or_broken_bring_nothing_and_take_nothing(store_url: str):
    batch = open_batch(3)
    first, second, third = batch.rows
    content = b"".join([line(first, "one"), line(first, "again"), line("foreign", "x"), b"{\n", line(second, "two")])
    brought: list[tuple[str, Any]] = []

    def bring(key: str, reply: Reply) -> None:
        assert isinstance(reply.outcome, Answer)
        brought.append((key, reply.outcome.text))

    with StandinServer() as server, AnswerStore(store_url) as store:

        async def take_apart(client: BatchClient) -> dict[str, Reply]:
            shown = Batch.construct(status="completed", output_file_id=await client.upload("results.jsonl", content))
            return await store_results(client, store, batch_endpoint(server), batch, shown, bring=bring)

        failed = asyncio.run(use_client(server.base_url, take_apart))
        assert brought == [(first, "one"), (second, "two")]
        assert list(failed) == [third]
        assert store.known(["foreign", *batch.rows]) == {first, second}
