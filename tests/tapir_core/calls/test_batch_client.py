"""What a provider may send back about files and batches, and what becomes of rows whose results are not as promised."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tapir_core.calls import Answer, AnswerStore
from tapir_core.calls.batch_client import BatchClient, BatchStatus, ProviderError, store_results
from tapir_core.calls.store_writes import OpenBatch
from tapir_core.calls.wire import Reply
from tapir_core.config import BatchConfig
from tests.doubles.provider import FakeProvider
from tests.doubles.standin import StandinServer
from tests.tapir_core.calls.batch_helpers import QUICK, batch_endpoint, sums

T = TypeVar("T")
TWO_ATTEMPTS = QUICK.model_copy(update={"max_attempts": 2})


async def use_client(base_url: str, use: Callable[[BatchClient], Awaitable[T]]) -> T:
    client = BatchClient(batch_endpoint(base_url), BatchConfig(), TWO_ATTEMPTS, rng=random.Random(1))
    try:
        return await use(client)
    finally:
        await client.close()


def open_batch(rows: int = 0) -> OpenBatch:
    return OpenBatch(
        "a-tag", "", {each.key: each for each in sums(rows)}, {each.key: 1 for each in sums(rows)}, "file-1", "batch_1"
    )


@pytest.mark.parametrize("body", ["[]", '"yes"', '{"id": "batch_'])
def test_a_reply_that_is_no_json_object_is_tried_again_and_then_a_failure_of_the_server(body: str):
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text=body, content_type="application/json")

    async def show() -> None:
        application = web.Application()
        application.router.add_get("/batches/{id}", answer)
        async with TestServer(application) as server:
            await use_client(str(server.make_url("")), lambda client: client.show("batch_1"))

    with pytest.raises(ProviderError, match="no JSON object") as raised:
        asyncio.run(show())
    assert (raised.value.failure.kind, raised.value.status) == ("server", 200)
    assert asked == ["/batches/batch_1"] * 2


def test_a_no_to_the_search_for_a_batch_is_no_word_on_whether_there_is_one():
    with FakeProvider() as provider, pytest.raises(ProviderError) as raised:
        asyncio.run(use_client(provider.base_url, lambda client: client.create(open_batch(), perhaps_made=True)))
    assert raised.value.status is None
    assert provider.calls == []


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
            status = BatchStatus("completed", (await client.upload("results.jsonl", content),))
            return await store_results(client, store, batch_endpoint(server), batch, status, bring=bring)

        failed = asyncio.run(use_client(server.base_url, take_apart))
        assert brought == [(first, "one"), (second, "two")]
        assert list(failed) == [third]
        assert store.known(["foreign", *batch.rows]) == {first, second}
