import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tapir_core.calls import Answer, Endpoint, Failure, Message, Request
from tapir_core.calls.client import Client, hide_key, hide_keys
from tapir_core.calls.limits import RateLimit
from tapir_core.calls.wire import Reply, request_body
from tapir_core.config import Sampling
from tapir_core.errors import ConfigError
from tests.doubles.provider import Drop, FakeProvider, FakeReply, Hang, Packed, RecordedCall, Status, Text, make_request

KEY = "sk-very-secret-0123456789"


def send(
    reply: FakeReply, *, request: Request | None = None, timeout_seconds: float = 5.0, **fields: Any
) -> tuple[Reply, RecordedCall]:
    with FakeProvider(lambda _: reply) as provider:
        return send_to(provider.endpoint(**fields), request, timeout_seconds), provider.calls[0]


def send_to(endpoint: Endpoint, request: Request | None = None, timeout_seconds: float = 5.0) -> Reply:
    async def run() -> Reply:
        client = Client(endpoint, timeout_seconds=timeout_seconds)
        try:
            return await client.send(request or make_request())
        finally:
            await client.close()

    return asyncio.run(run())


def failed(reply: Reply) -> Failure:
    assert isinstance(reply.outcome, Failure)
    return reply.outcome


REQUESTS = {
    "plain": make_request("Say something."),
    "system": Request(
        "judge", (Message("system", "Be short."), Message("user", "Hi")), "m/1", "i", Sampling(top_p=0.5)
    ),
    "warm": make_request("Draw", sampling=Sampling(temperature=1.0, max_tokens=7), sample_index=3),
    "odd text": make_request("tabs\t, “quotes”, 漢字, emoji 😀, a lone \ud800 surrogate, a NUL \x00, \u202e and \\n"),
}


@pytest.mark.parametrize("request_name", REQUESTS)
def test_what_is_sent_is_the_request_as_it_would_be_written_into_a_batch(request_name: str):
    request = REQUESTS[request_name]
    _, call = send(Text("fine"), request=request, api_key=KEY)
    assert call.body == json.loads(json.dumps(request_body(request, Endpoint("", 1))))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 429, 500, 503])
def test_of_an_error_what_the_provider_said_and_asked_for_is_kept(status: int):
    reply, _ = send(Status(status, {"error": {"message": "it broke", "code": "some_code"}}, {"Retry-After": "3"}))
    assert f"HTTP {status}: it broke" == failed(reply).message
    assert reply.retry_after_seconds == 3


def test_a_completion_is_answered_with_the_key_in_its_header_only():
    reply, call = send(Text("fine"), api_key=KEY)
    assert reply.outcome == Answer("fine", "stop", 10, 5)
    assert call.headers["Authorization"] == f"Bearer {KEY}"
    assert call.body["max_tokens"] == 1024


def test_what_the_environment_holds_for_openai_reaches_no_other_host(monkeypatch: pytest.MonkeyPatch):
    single = ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET")
    for name in single:
        monkeypatch.setenv(f"OPENAI_{name}", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Team: {KEY}\nauthorization: Bearer {KEY}\napi-key:{KEY}")
    for own in (None, "sk-of-this-provider"):
        reply, call = send(Text("fine"), api_key=own)
        assert isinstance(reply.outcome, Answer)
        assert KEY not in str(call.headers)
        assert call.headers.getall("Authorization") == [f"Bearer {own or 'none'}"]


def test_the_environments_proxy_is_used_where_it_is_meant(monkeypatch: pytest.MonkeyPatch):
    with FakeProvider() as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1").replace("//", "//me:hush@"))
        reply = send_to(Endpoint("http://model.invalid/v1", 1), make_request("Hi"))
        assert isinstance(reply.outcome, Answer)
        assert proxy.calls[0].headers["Host"] == "model.invalid"
        assert proxy.calls[0].headers["Proxy-Authorization"] == "Basic bWU6aHVzaA=="
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert isinstance(send(Text("direct"))[0].outcome, Answer)
        assert len(proxy.calls) == 1


def test_a_proxy_is_shown_its_own_password_and_not_the_key(monkeypatch: pytest.MonkeyPatch):
    shown: list[bytes] = []

    async def run() -> Reply:
        async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            shown.append(await reader.readuntil(b"\r\n\r\n"))
            writer.close()

        server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://me:hush@127.0.0.1:{port}")
        client = Client(Endpoint("https://model.invalid/v1", 1, KEY), timeout_seconds=5)
        try:
            return await client.send(make_request())
        finally:
            await client.close()
            server.close()

    assert failed(asyncio.run(run())).kind == "connection"
    assert shown[0].startswith(b"CONNECT model.invalid:443")
    assert b"Basic bWU6aHVzaA==" in shown[0]
    assert KEY.encode() not in shown[0]


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
        (Status(301), "server"),
        (Text(None, refusal="No."), "refused"),
    ],
)
def test_what_goes_wrong_on_the_wire_has_its_kind(reply: FakeReply, kind: str):
    assert failed(send(reply)[0]).kind == kind


def test_a_server_that_hangs_is_a_timeout():
    assert failed(send(Hang(), timeout_seconds=0.2)[0]).kind == "timeout"


def test_a_server_that_is_not_there_is_a_connection_failure_that_names_it():
    failure = failed(send_to(Endpoint("http://127.0.0.1:1/v1", 1)))
    assert failure.kind == "connection"
    assert "http://127.0.0.1:1/v1" in failure.message


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/v1", "http:///v1", "http://127.0.0.1:99999/v1"])
def test_what_is_no_address_is_told_at_once(address: str):
    reply = send_to(Endpoint(address, 1))
    assert failed(reply).kind == "connection"
    assert reply.endpoint_at_fault


def test_an_address_with_a_password_is_refused_without_showing_it():
    with pytest.raises(ConfigError, match="api_key_env") as raised:
        Client(Endpoint("http://user:hunter2@127.0.0.1:1/v1", 1), timeout_seconds=5)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("key", ["sk-secret\n", "sk-séc", "sk\x7f"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str):
    with pytest.raises(ConfigError, match="MY_KEY") as raised:
        Client(Endpoint("http://127.0.0.1:1/v1", 1, key, "MY_KEY"), timeout_seconds=5)
    assert key.strip() not in str(raised.value)


def test_retry_after_is_passed_on():
    assert send(Status(429, headers={"Retry-After": "3"}))[0].retry_after_seconds == 3.0


def test_limits_that_headers_show_are_passed_on_with_answers_and_failures():
    headers = {"X-RateLimit-Remaining-Requests": "0", "X-RateLimit-Limit-Requests": "60"}
    limited, _ = send(Status(429, headers=headers))
    assert limited.rate_limits == (RateLimit("requests", 0, 60),)
    assert limited.shows_spent_account
    choice = {"message": {"content": "fine"}, "finish_reason": "stop"}
    answered, _ = send(Status(200, {"choices": [choice]}, headers))
    assert answered.rate_limits == limited.rate_limits
    assert not answered.shows_spent_account
    assert not send(Status(429))[0].shows_spent_account


def test_an_address_in_the_style_of_azure_gets_its_version_and_the_key_in_its_own_header():
    fields = {"key_header": "api-key", "query": {"api-version": "2026-01-01"}, "headers": {"X-Team": "tapir"}}
    with FakeProvider(models=["m"], query={"api-version": "2026-01-01"}) as provider:
        reply = send_to(provider.endpoint(api_key=KEY, **fields))
        (call,) = provider.calls
    assert isinstance(reply.outcome, Answer)
    assert (call.headers["api-key"], call.headers["X-Team"]) == (KEY, "tapir")
    assert "Authorization" not in call.headers


def test_a_proxy_of_the_configuration_is_used_in_place_of_the_environments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with FakeProvider() as proxy:
        reply = send_to(Endpoint("http://model.invalid/v1", 1, proxy=proxy.base_url.removesuffix("/v1")))
        assert [call.headers["Host"] for call in proxy.calls] == ["model.invalid"]
    assert isinstance(reply.outcome, Answer)


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_what_goes_wrong_at_a_proxy_names_it_and_not_its_password(monkeypatch: pytest.MonkeyPatch, variable: str):
    monkeypatch.setenv(variable, "http://me:hush@127.0.0.1:9")
    there = Endpoint("http://model.invalid/v1", 1)
    failure = failed(send_to(there))
    assert failure.kind == "connection"
    assert f"through the proxy http://127.0.0.1:9 ({variable})" in failure.message
    with FakeProvider(lambda _: Status(407, "<html>Who are you?</html>")) as proxy:
        monkeypatch.setenv(variable, proxy.base_url.removesuffix("/v1").replace("//", "//me:hush@"))
        reply = send_to(there)
    assert failed(reply).kind == "connection"
    assert reply.endpoint_at_fault, "no row is to blame"
    assert f"({variable})" in failed(reply).message
    assert "hush" not in failure.message + failed(reply).message


def test_what_a_provider_says_in_json_is_not_laid_to_the_proxy(monkeypatch: pytest.MonkeyPatch):
    with FakeProvider(lambda _: Status(500, {"error": {"message": "it broke"}})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1"))
        assert failed(send_to(Endpoint("http://model.invalid/v1", 1))).message == "HTTP 500: it broke"


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_our_own_servers_and_this_machine_are_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch, proxy: str):
    monkeypatch.setenv("all_proxy", proxy)
    assert isinstance(send(Text("fine"))[0].outcome, Answer)
    assert "127.0.0.1" not in failed(send_to(Endpoint("http://model.invalid/v1", 1, proxy=""))).message


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_refused_because_the_key_would_go_along(status: int):
    with FakeProvider() as elsewhere:
        reply, _ = send(Status(status, headers={"Location": f"{elsewhere.base_url}/chat/completions"}), api_key=KEY)
        assert elsewhere.calls == []
    assert f"HTTP {status}" in failed(reply).message


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("spell", [lambda key: key.replace("/", "\\/"), lambda key: f"\\u{ord(key[0]):04X}{key[1:]}"])
def test_a_key_is_hidden_in_whatever_escapes_json_spells_it(spell: Callable[[str], str], depth: int):
    key = "sk-with/slash+and=more"
    text = f'"the key is {spell(key)}, or {key}"'
    for _ in range(depth - 1):
        text = json.dumps(text)
    hidden = hide_key(text, key)
    for _ in range(depth):
        hidden = json.loads(hidden)
    assert hidden == "the key is [key], or [key]"


def test_a_text_of_backslashes_is_searched_in_linear_time():
    text = "\\" * 200_000
    assert hide_key(text, "sk-0123456789") == text


def test_a_short_placeholder_key_garbles_no_reply():
    assert hide_key("x marks the spot", "x") == "x marks the spot"


def test_openai_itself_is_told_who_pays(monkeypatch: pytest.MonkeyPatch):
    # Its own host cannot be served here: a proxy in its place shows what would go out, up to the tunnel.
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    with FakeProvider() as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1"))
        send_to(Endpoint("http://api.openai.com/v1", 1, KEY))
        (call,) = proxy.calls
    assert call.headers["OpenAI-Organization"] == "org-1"
    assert "OpenAI-Project" not in call.headers


def test_a_reply_that_is_larger_than_any_answer_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tapir_core.calls.client.LARGEST_REPLY_BYTES", 1 << 20)
    reply, _ = send(Text("x" * (3 << 20)))
    assert (failed(reply).kind, len(reply.raw or "") < 100) == ("no_answer", True)
    assert "the reply is larger than 1 MiB" in failed(reply).message


def test_a_small_reply_that_unpacks_to_a_large_one_is_not_read_either(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tapir_core.calls.client.LARGEST_REPLY_BYTES", 1 << 20)
    whole = json.dumps({"choices": [{"message": {"content": "x" * (3 << 20)}}]})
    reply, _ = send(Packed(whole))
    assert "larger than 1 MiB" in failed(reply).message
    monkeypatch.undo()
    assert len(send(Packed(whole))[0].outcome.text) == 3 << 20


def test_a_date_to_wait_for_is_read_by_the_servers_clock():
    slow = Status(429, {}, {"Date": "Thu, 01 Jan 2026 12:00:00 GMT", "Retry-After": "Thu, 01 Jan 2026 12:00:07 GMT"})
    reply, _ = send(slow)
    assert reply.retry_after_seconds == 7


def test_a_process_that_stood_still_reads_the_replies_that_wait_for_it():
    async def run(stood_still_seconds: float) -> Reply:
        client = Client(provider.endpoint(), timeout_seconds=1.0)
        asyncio.get_running_loop().call_later(0.1, time.sleep, stood_still_seconds)
        try:
            return await client.send(make_request())
        finally:
            await client.close()

    with FakeProvider(latency_seconds=0.3) as provider:
        assert isinstance(asyncio.run(run(2.5)).outcome, Answer)
        provider.script = lambda _: Hang()
        assert failed(asyncio.run(run(0.0))).kind == "timeout"


@pytest.mark.parametrize(
    ("asked", "answered", "is_told"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", False),
        ("openai/gpt-4o", "gpt-4o", False),
        ("models/gemini-2.0", "gemini_2.0", False),
        ("my-alias", "", False),
        ("gpt-4o", "gpt-3.5-turbo-0125", True),
        ("Qwen2.5-7B-Instruct", "/srv/models/llama.gguf", True),
    ],
)
def test_an_answer_by_another_model_is_told_once(
    asked: str, answered: str, is_told: bool, caplog: pytest.LogCaptureFixture
):
    body = {"model": answered, "choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}]}
    with FakeProvider(lambda _: Status(200, body)) as provider:
        assert isinstance(send_to(provider.endpoint(), make_request(model=asked)).outcome, Answer)
    assert len([record for record in caplog.records if "answers as" in record.getMessage()]) == is_told


def test_an_unknown_finish_reason_is_told_once_with_its_body(caplog: pytest.LogCaptureFixture):
    async def run() -> list[Reply]:
        client = Client(provider.endpoint(), timeout_seconds=5)
        try:
            return [await client.send(make_request(f"question {number}")) for number in range(3)]
        finally:
            await client.close()

    with FakeProvider(lambda call: Text(call.prompt, finish_reason="sundown")) as provider:
        replies = asyncio.run(run())
    assert {reply.outcome.finish_reason for reply in replies} == {"sundown"}
    [told] = [record.getMessage() for record in caplog.records if "sundown" in record.getMessage()]
    assert "question 0" in told


def test_a_secret_is_hidden_as_an_address_spells_it_too():
    endpoint = Endpoint("http://h/v1", 1, "abcdefgh", more_secrets=("abcdefgh-longer/+==", "customer"))
    assert hide_keys("?sig=abcdefgh-longer%2F%2B%3D%3D and abcdefgh-longer/+==", endpoint) == "?sig=[key] and [key]"
    assert hide_keys("Dear customer", endpoint) == "Dear customer"


def test_a_header_that_cannot_be_sent_is_named_without_its_value():
    with pytest.raises(ConfigError, match="the header X-Team holds a line break") as refused:
        Client(Endpoint("http://h/v1", 1, headers={"X-Team": "hush\n"}), timeout_seconds=1)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("date", ["Thu, 01 Jan 2026 12:00:00 +99999999999999", "soon", ""])
def test_a_date_that_cannot_be_read_is_our_own(date: str):
    assert isinstance(
        send(Status(200, {"choices": [{"message": {"content": "Yes"}}]}, {"Date": date}))[0].outcome, Answer
    )
