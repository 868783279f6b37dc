"""The stand-in behind OpenAI's API: chat completions, served until a signal stops it.

`tapir standin serve` runs it; a run starts the module with port, latency and behaviour as JSON. It starts in a fraction
of a second: nothing heavier than aiohttp is imported. Tests add faults, batches and a log to the same application
(tests/doubles/standin.py); docs/standin.md says what it does.

Limits: chat completions of one choice, without streaming and tools.
"""

import asyncio
import json
import math
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from types import NoneType
from typing import Any

from aiohttp import web

from tapir_core.errors import ConfigError
from tapir_core.standin import STANDIN_VERSION
from tapir_core.standin.rules import Behaviour, Refusal, Reply, Weighted, read_ask, say

MODELS = ("standin-teacher", "standin-judge")
CHAT = "/v1/chat/completions"

_GRACE_SECONDS = 2.0
"""For replies that are under way when the server is stopped."""
_LAST_CONNECTION_SECONDS = 0.05
"""For connections that are being accepted when the server is stopped."""
_LARGEST_BODY_BYTES = 512 * 2**20
"""Of the files of batches, which tests add."""
_TOKEN = re.compile(r"\w+|[^\w\s]")
"""What counts as a token."""


@dataclass(eq=False)
class BadRequest(Exception):
    """Raised when the request itself is wrong; becomes an error reply as OpenAI's."""

    message: str
    status: int = 400
    code: str | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What the stand-in reads of a chat request."""

    model: str
    messages: list[Mapping[str, Any]]
    max_tokens: int | None
    seed: int | None
    top_logprobs: int = 0
    """How many log-probabilities are wanted of each token."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A reply that can be sent."""

    status: int
    body: dict[str, Any]


def reply_to(content: bytes, behaviour: Behaviour) -> ChatReply:
    """The reply to a request's bytes; a wrong request is a reply too."""
    try:
        body = json.loads(content)
    except ValueError as exc:
        return rejection(BadRequest(f"the body is not JSON: {exc}"))
    return reply_to_json(body, behaviour)


def reply_to_json(body: Any, behaviour: Behaviour) -> ChatReply:
    """The reply to a request's decoded JSON."""
    try:
        chat = parse_chat(body)
        reply: Reply | Refusal = say(read_ask(chat.messages, chat.seed), behaviour)
    except BadRequest as problem:
        return rejection(problem)
    except Refusal as refusal:
        reply = refusal
    return ChatReply(200, completion(chat, reply, created=int(time.time()), logprobs=behaviour.logprobs))


def rejection(problem: BadRequest) -> ChatReply:
    """An error as OpenAI words it."""
    said = {"message": problem.message, "type": "invalid_request_error", "param": None, "code": problem.code}
    return ChatReply(problem.status, {"error": said})


def parse_chat(body: Any) -> ChatRequest:
    """Check a request's JSON.

    Raises:
        BadRequest: it is no chat request, names another model or wants what the stand-in does not do.
    """
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    model, messages = body.get("model"), body.get("messages")
    if model not in MODELS:
        raise BadRequest(f"The model `{model}` does not exist.", status=404, code="model_not_found")
    max_tokens, seed = body.get("max_completion_tokens") or body.get("max_tokens"), body.get("seed")
    wanted = body.get("top_logprobs") or 0
    has_messages = isinstance(messages, list) and messages and all(isinstance(each, dict) for each in messages)
    is_sampled = isinstance(wanted, int) and 0 <= wanted <= 20 and (body.get("logprobs") or not wanted)
    for holds, problem in (
        (has_messages, "'messages' must be a list of messages, not empty"),
        (not body.get("stream") and body.get("n", 1) in (1, None), "the stand-in sends one choice and does not stream"),
        (type(max_tokens) in (int, NoneType), f"'max_tokens' must be an integer, not {max_tokens!r}"),
        (type(seed) in (int, NoneType), f"'seed' must be an integer, not {seed!r}"),
        (is_sampled, "'top_logprobs' must be an integer from 0 to 20, and needs 'logprobs'"),
    ):
        if not holds:
            raise BadRequest(problem)
    return ChatRequest(model, body["messages"], max_tokens, seed, wanted)


def completion(chat: ChatRequest, reply: Reply | Refusal, *, created: int, logprobs: bool = True) -> dict[str, Any]:
    """The reply as a chat completion, cut off after ``max_tokens`` tokens (words and punctuation marks).

    Log-probabilities are those of a weighted reply's one token, where they are asked for and given at all.
    """
    weights = None
    if isinstance(reply, Weighted):
        weights = _logprobs(reply, chat.top_logprobs) if logprobs and chat.top_logprobs else None
        reply = reply.text
    refusal = reply.reason if isinstance(reply, Refusal) else None
    ends = [match.end() for match in _TOKEN.finditer(refusal or str(reply))]
    tokens = len(ends)
    finish_reason = "stop"
    if not isinstance(reply, Refusal) and chat.max_tokens is not None and tokens > chat.max_tokens:
        tokens, finish_reason = chat.max_tokens, "length"
        reply = reply[: ends[tokens - 1]] if tokens > 0 else ""
    message = {"role": "assistant", "content": None if refusal else reply, "refusal": refusal}
    prompt_tokens = sum(len(_TOKEN.findall(str(each.get("content") or ""))) for each in chat.messages)
    return {
        "id": f"chatcmpl-{sha256(repr((chat, reply)).encode()).hexdigest()[:24]}",
        "object": "chat.completion",
        "created": created,
        "model": chat.model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": weights}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": prompt_tokens + tokens,
        },
    }


def _logprobs(reply: Weighted, top: int) -> dict[str, Any]:
    """The one token of a weighted reply, and its likeliest alternatives."""
    ranked = sorted(reply.probabilities.items(), key=lambda pair: -pair[1])[:top]
    listed = [{"token": token, "logprob": math.log(share), "bytes": [*token.encode()]} for token, share in ranked]
    own = next(each for each in listed if each["token"] == reply.text)
    return {"content": [{**own, "top_logprobs": listed}], "refusal": None}


def model_list() -> dict[str, Any]:
    """The models, as `GET /v1/models` lists them."""
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": "tapir"} for name in MODELS],
    }


def make_application(behaviour: Behaviour, latency_ms: int = 0) -> web.Application:
    """The stand-in behind HTTP.

    Args:
        behaviour: What judgments depend on.
        latency_ms: Milliseconds before each chat reply.
    """

    async def chat(request: web.Request) -> web.Response:
        content = await request.read()
        await asyncio.sleep(latency_ms / 1000)
        reply = reply_to(content, behaviour)
        return web.json_response(reply.body, status=reply.status)

    async def models(_: web.Request) -> web.Response:
        return web.json_response(model_list())

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": STANDIN_VERSION})

    application = web.Application(client_max_size=_LARGEST_BODY_BYTES)
    application.add_routes([web.post(CHAT, chat), web.get("/v1/models", models), web.get("/health", health)])
    return application


@asynccontextmanager
async def listen(application: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve in the running loop while the block runs; gives the port, a free one for 0.

    At its end replies under way are sent.

    Raises:
        ConfigError: the address cannot be bound.
    """
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_GRACE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as exc:
        await runner.cleanup()
        raise ConfigError(
            f"the stand-in cannot listen on {host}:{port}: {exc}; choose another --port (0 takes a free one)"
        ) from exc
    try:
        yield runner.addresses[0][1]
    finally:
        # A connection whose acceptance has begun is seen through: asyncio loses its socket if the server goes first.
        await asyncio.sleep(_LAST_CONNECTION_SECONDS)
        await runner.cleanup()


async def serve(application: web.Application, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; says where it listens once it does.

    Raises:
        ConfigError: the address cannot be bound.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with listen(application, host, port) as bound:
        print(f"stand-in ready at http://{host}:{bound}/v1", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    port, latency_ms, given = json.loads(sys.argv[1])
    asyncio.run(serve(make_application(Behaviour(**given), latency_ms), "127.0.0.1", port))
