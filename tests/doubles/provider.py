"""A scripted provider: a real HTTP server that answers chat completions as it is told and records every call.

It lists its models to who asks for them with the right key; that is no call.

It knows no instruction; the stand-in (`tapir_core/standin`) is the one that does.
"""

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tapir_core.calls.types import Endpoint, Message, Request
from tapir_core.config import Sampling
from tapir_core.probing import PROMPT as PROBE
from tapir_core.text import MISSING


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One request as it arrived."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    arrived: float
    """Monotonic clock."""

    @property
    def prompt(self) -> str:
        """Content of the last message; of a reply that is shown again, what it replied to."""
        messages = self.body.get("messages") or [{"content": self.body.get("prompt", "")}]
        asked = messages[:-2] if messages[-1]["content"] == MISSING else messages
        return str(asked[-1]["content"])


@dataclass(frozen=True, slots=True)
class Text:
    """A chat completion."""

    content: str | None
    finish_reason: str = "stop"
    refusal: str | None = None
    prompt_tokens: int = 10
    completion_tokens: int = 5
    logprobs: Mapping[str, float] = field(default_factory=dict)
    """Of the first token's alternatives; none are sent where this is empty."""

    def to_response(self, call: RecordedCall) -> web.Response:
        """The HTTP response."""
        message = {"role": "assistant", "content": self.content, "refusal": self.refusal}
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        if self.logprobs:
            listed = [{"token": token, "logprob": value} for token, value in self.logprobs.items()]
            choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
        whole = {"id": "fake", "object": "chat.completion", "created": 0, "model": call.body.get("model")}
        return web.json_response({**whole, "choices": [choice], "usage": usage})


@dataclass(frozen=True, slots=True)
class Status:
    """Any status, headers and body; a mapping is sent as JSON, a text as it is."""

    status: int
    body: Mapping[str, Any] | Sequence[Any] | str = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_response(self, _: RecordedCall) -> web.Response:
        """The HTTP response."""
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        return web.Response(status=self.status, text=text, headers=self.headers, content_type="application/json")


@dataclass(frozen=True, slots=True)
class Packed:
    """A body of its own, sent with gzip."""

    body: str

    def to_response(self, _: RecordedCall) -> web.Response:
        """The HTTP response."""
        packed = gzip.compress(self.body.encode())
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"}, content_type="application/json")


@dataclass(frozen=True, slots=True)
class Hang:
    """No reply until the client or the server goes away."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection is closed without a reply."""


def make_request(prompt: str = "Say something.", *, sampling: Sampling | None = None, **fields: Any) -> Request:
    """A request with defaults for all that a test does not care about."""
    defaults: dict[str, Any] = {"role": "teach", "model": "fake-model", "identity": "fake-1", "run": "a-run"}
    return Request(messages=(Message("user", prompt),), sampling=sampling or Sampling(), **{**defaults, **fields})


FakeReply = Text | Status | Packed | Hang | Drop
Script = Callable[[RecordedCall], FakeReply]


def echo(call: RecordedCall) -> FakeReply:
    """A script that answers each prompt with itself."""
    return Text(f"echo: {call.prompt}")


def in_turn(*replies: FakeReply) -> Script:
    """A script that gives each reply once, and fails loudly when more is asked."""
    rest = iter(replies)

    def script(_: RecordedCall) -> FakeReply:
        reply = next(rest, None)
        if reply is None:
            raise AssertionError(f"the script of {len(replies)} replies has run out")
        return reply

    return script


class FakeProvider:
    """A server on loopback, in a thread of its own; use it as a context manager.

    A script that raises fails the `with` block at its end, whatever the client made of the reply.
    """

    def __init__(
        self,
        script: Script = echo,
        *,
        latency_seconds: float = 0.0,
        works_at: int = 1000,
        models: FakeReply | Sequence[str] = ("fake-model",),
        api_key: str | None = None,
        query: Mapping[str, str] | None = None,
        probed: bool = False,
    ) -> None:
        """Prepare it.

        Args:
            script: Says what each call is answered with.
            latency_seconds: Before each answer.
            works_at: Answers that it works at; the others wait.
            models: What it lists, or what it answers instead of a list.
            api_key: The only key to which it lists them; without one it takes any.
            query: What has to stand behind every address.
            probed: Whether the script answers probes too; without, they are answered plainly, and are no calls.
        """
        self.script = script
        self._models = models
        self._api_key = api_key
        self._query = dict(query or {})
        self._probed = probed
        self.calls: list[RecordedCall] = []
        self.most_at_once = 0
        """Most calls that were in the server at one moment."""
        self.base_url = ""
        self._latency_seconds, self._lanes = latency_seconds, asyncio.Semaphore(works_at)
        self._at_once = 0
        self._script_errors: list[Exception] = []
        self._loop = asyncio.new_event_loop()
        self._gone = asyncio.Event()
        self._runner = web.AppRunner(self._application(), shutdown_timeout=0.1)
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-provider", daemon=True)

    def endpoint(self, *, concurrency: int = 8, api_key: str | None = None, **fields: Any) -> Endpoint:
        """Where it answers."""
        return Endpoint(self.base_url, concurrency, api_key, **fields)

    def prompts(self) -> list[str]:
        """The prompts that arrived, in order."""
        return [call.prompt for call in self.calls]

    def __enter__(self) -> "FakeProvider":
        self._thread.start()
        self.base_url = self._wait_for(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._wait_for(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._script_errors and kind is None:
            raise self._script_errors[0]

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self._handle)
        application.router.add_post("/v1/completions", self._handle)
        application.router.add_get("/v1/models", self._list_models)
        return application

    async def _list_models(self, request: web.Request) -> web.StreamResponse:
        reply = self._models
        if self._api_key is not None and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            reply = Status(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
        elif not isinstance(reply, FakeReply):
            reply = Status(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in reply]})
        return await self._send(request, reply, RecordedCall({}, request.headers.copy(), time.monotonic()))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = RecordedCall(await request.json(), request.headers.copy(), time.monotonic())
        if call.prompt == PROBE and not self._probed:
            return Text("ready").to_response(call)
        self.calls.append(call)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            async with self._lanes:
                await asyncio.sleep(self._latency_seconds)
            return await self._reply(request, call)
        finally:
            self._at_once -= 1

    async def _reply(self, request: web.Request, call: RecordedCall) -> web.StreamResponse:
        try:
            assert dict(request.query) == self._query, f"asked with {dict(request.query)}"
            reply = self.script(call)
        except Exception as error:  # raised again by __exit__: a test must not pass on it
            self._script_errors.append(error)
            reply = Status(400, {"error": {"message": str(error)}})
        return await self._send(request, reply, call)

    async def _send(self, request: web.Request, reply: FakeReply, call: RecordedCall) -> web.StreamResponse:
        if isinstance(reply, Hang):
            await self._gone.wait()
        if isinstance(reply, Hang | Drop):
            # A client that went first has taken the transport along.
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        return reply.to_response(call)

    async def _start(self) -> str:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}/v1"

    async def _stop(self) -> str:
        self._gone.set()
        server = self._runner.server
        await self._runner.cleanup()
        # Who connected while it ended.
        await asyncio.sleep(0)
        assert server is not None
        await server.shutdown(0.1)
        return ""

    def _wait_for(self, work: "Awaitable[str]") -> str:
        async def run() -> str:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=30)
