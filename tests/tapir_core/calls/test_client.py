import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx2
import openai
import pytest

from tapir_core.calls import Answer, Endpoint, Failure
from tapir_core.calls.client import FOREIGN_ERRORS, Client, hide_key, read_foreign_error
from tapir_core.calls.fakes import Drop, FakeProvider, FakeReply, Hang, RecordedCall, Status, Text, make_request
from tapir_core.calls.wire import Reply
from tapir_core.errors import ConfigError

KEY = "sk-very-secret-0123456789"
REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions")


def send(reply: FakeReply, *, timeout_seconds: float = 5.0, **fields: Any) -> tuple[Reply, RecordedCall]:
    async def run(endpoint: Endpoint) -> Reply:
        client = Client(endpoint, timeout_seconds=timeout_seconds)
        try:
            return await client.send(make_request())
        finally:
            await client.close()

    with FakeProvider(lambda _: reply) as provider:
        return asyncio.run(run(provider.endpoint(**fields))), provider.calls[0]


def failed(reply: Reply) -> Failure:
    assert isinstance(reply.outcome, Failure)
    return reply.outcome


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for each in kind.__subclasses__():
        yield from subclasses(each)


def make_error(kind: type[Exception]) -> Exception:
    """An error of any class of the SDK, from whatever its constructor asks for."""
    offered = {
        "message": "it broke",
        "request": REQUEST,
        "body": None,
        "response": httpx2.Response(int(getattr(kind, "status_code", 500)), request=REQUEST),
        "unsent_messages": [],
        "symbol": "Completion",
        "completion": type("Completion", (), {"usage": None})(),
    }
    if kind.__init__ is Exception.__init__:
        return kind("it broke")
    asked = inspect.signature(kind).parameters.values()
    return kind(**{each.name: offered[each.name] for each in asked if each.default is each.empty})


SDK_ERRORS = sorted(set(subclasses(openai.OpenAIError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", SDK_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_sdk_becomes_a_typed_failure(kind: type[Exception]):
    error = make_error(kind)
    assert isinstance(error, FOREIGN_ERRORS)
    assert failed(read_foreign_error(error, where="http://h/v1", key=None)).kind != "bad_reply"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (openai.AuthenticationError("no", response=httpx2.Response(401, request=REQUEST), body=None), "unauthorized"),
        (openai.RateLimitError("no", response=httpx2.Response(429, request=REQUEST), body=None), "rate_limited"),
        (openai.InternalServerError("no", response=httpx2.Response(500, request=REQUEST), body=None), "server"),
        (openai.APIResponseValidationError(httpx2.Response(200, request=REQUEST), None), "server"),
        (openai.APITimeoutError(REQUEST), "timeout"),
        (openai.APIConnectionError(request=REQUEST), "connection"),
        (httpx2.DecodingError("bad gzip"), "connection"),
        (httpx2.InvalidURL("no host"), "connection"),
        (aiohttp.ServerDisconnectedError(), "connection"),
        (aiohttp.ServerTimeoutError(), "timeout"),
        (ConnectionResetError(), "connection"),
    ],
)
def test_errors_of_each_layer_have_their_kind(error: Exception, kind: str):
    assert failed(read_foreign_error(error, where="http://h/v1", key=None)).kind == kind


def test_a_completion_is_answered_with_the_key_in_its_header_only():
    reply, call = send(Text("fine"), api_key=KEY)
    assert reply.outcome == Answer("fine", "stop", 10, 5)
    assert call.headers["Authorization"] == f"Bearer {KEY}"
    assert call.body["max_tokens"] == 1024


def test_a_server_without_key_is_not_sent_the_users_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    _, call = send(Text("fine"))
    assert KEY not in str(call.headers)


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_a_key_that_the_provider_repeats_is_in_no_part_of_the_reply(status: int):
    reply, _ = send(Status(status, {"error": {"message": f"wrong key {KEY}", "code": status}}), api_key=KEY)
    assert KEY not in repr(reply)
    assert "[key]" in failed(reply).message


def test_the_key_is_in_no_repr():
    assert KEY not in repr(Endpoint("http://h/v1", 1, KEY))


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Drop(), "connection"),
        (Status(200, '{"choices": [{"mess'), "server"),
        (Status(500), "server"),
        (Status(429), "rate_limited"),
        (Status(413), "too_long"),
        (Text(None, refusal="No."), "refused"),
    ],
)
def test_what_goes_wrong_on_the_wire_has_its_kind(reply: FakeReply, kind: str):
    assert failed(send(reply)[0]).kind == kind


def test_a_server_that_hangs_is_a_timeout():
    assert failed(send(Hang(), timeout_seconds=0.2)[0]).kind == "timeout"


def test_a_server_that_is_not_there_is_a_connection_failure_that_names_it():
    async def run() -> Reply:
        client = Client(Endpoint("http://127.0.0.1:1/v1", 1), timeout_seconds=5)
        try:
            return await client.send(make_request())
        finally:
            await client.close()

    failure = failed(asyncio.run(run()))
    assert failure.kind == "connection"
    assert "http://127.0.0.1:1/v1" in failure.message


def test_an_address_with_a_password_is_refused_without_showing_it():
    with pytest.raises(ConfigError, match="api_key_env") as raised:
        Client(Endpoint("http://user:hunter2@127.0.0.1:1/v1", 1), timeout_seconds=5)
    assert "hunter2" not in str(raised.value)


def test_retry_after_is_passed_on():
    assert send(Status(429, headers={"Retry-After": "3"}))[0].retry_after_seconds == 3.0


def test_a_short_placeholder_key_garbles_no_reply():
    assert hide_key("x marks the spot", "x") == "x marks the spot"
