"""The stand-in behind OpenAI's API: chat completions, files and batches, served until it is told to stop.

`tapir standin serve` runs it, and so does `python -m tapir_core.standin.server`. It starts in a fraction of a second:
nothing heavier than aiohttp is imported. Tests add faults, batches and a log to the same application
(tests/doubles/standin.py); docs/standin.md says what it does.

Limits: chat completions of one choice, without streaming and tools. A batch is answered when it is made, and completed
then; files and batches live as long as the process. A row whose request is wrong is in the error file, a file that
holds anything but requests is an error. Batches that take their time, fail or expire are those of the tests.
"""

import argparse
import asyncio
import json
import math
import re
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from types import NoneType
from typing import Any, TypeVar, get_args

from aiohttp import web

from tapir_core.errors import ConfigError, TapirError
from tapir_core.standin import STANDIN_VERSION
from tapir_core.standin.rules import Behaviour, Preference, Refusal, Reply, Weighted, read_ask, say

MODELS = ("standin-teacher", "standin-judge")
CHAT = "/v1/chat/completions"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Thing = TypeVar("Thing")

_GRACE_SECONDS = 2.0
"""For replies that are under way when the server is stopped."""
_LAST_CONNECTION_SECONDS = 0.05
"""For connections that are being accepted when the server is stopped."""
_LARGEST_BODY_BYTES = 512 * 2**20
"""Of an uploaded file."""
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


class Batches:
    """The files and batches of one server."""

    def __init__(self, behaviour: Behaviour) -> None:
        """Nothing is there yet."""
        self._behaviour = behaviour
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, dict[str, Any]] = {}

    def routes(self) -> list[web.RouteDef]:
        """Their addresses."""
        return [
            web.post("/v1/files", self._upload),
            web.get("/v1/files/{id}/content", self._send_content),
            web.post("/v1/batches", self._create),
            web.get("/v1/batches", self._list),
            web.get("/v1/batches/{id}", self._show),
        ]

    async def _upload(self, request: web.Request) -> web.Response:
        file = (await request.post()).get("file")
        if not isinstance(file, web.FileField):
            raise BadRequest("upload a multipart form of 'purpose' and 'file'")
        return web.json_response({"id": self._keep(file.file.read()), "object": "file", "purpose": "batch"})

    async def _send_content(self, request: web.Request) -> web.Response:
        return web.Response(body=_known(self._files, request.match_info["id"], "No such File object"))

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        content = _known(self._files, asked.get("input_file_id"), "No such File object")
        # In a thread: a large file would hold up everybody else for seconds.
        answered = await asyncio.to_thread(self._answer, content)
        files = {name: self._keep(bytes(rows)) if rows else None for name, rows in answered.items()}
        batch = {
            **{name: asked.get(name) for name in ("input_file_id", "endpoint", "completion_window", "metadata")},
            "id": f"batch_{secrets.token_hex(12)}",
            "object": "batch",
            "status": "completed",
            "created_at": int(time.time()),
            **files,
        }
        self._batches[batch["id"]] = batch
        return web.json_response(batch)

    async def _list(self, _: web.Request) -> web.Response:
        """The newest first."""
        return web.json_response({"object": "list", "data": [*reversed(self._batches.values())], "has_more": False})

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(_known(self._batches, request.match_info["id"], "No batch found"))

    def _answer(self, content: bytes) -> dict[str, bytearray]:
        """Which file of the batch has which rows: those that were answered, and those whose request is wrong."""
        rows = {"output_file_id": bytearray(), "error_file_id": bytearray()}
        for line in content.splitlines():
            row = json.loads(line)
            reply = reply_to_json(row["body"], self._behaviour)
            response = {"status_code": reply.status, "request_id": f"req_{row['custom_id']}", "body": reply.body}
            answered = {"id": f"row_{row['custom_id']}", "custom_id": row["custom_id"], "response": response}
            file = "output_file_id" if reply.status == 200 else "error_file_id"
            rows[file] += json.dumps({**answered, "error": None}).encode() + b"\n"
        return rows

    def _keep(self, content: bytes) -> str:
        name = f"file-{secrets.token_hex(12)}"
        self._files[name] = content
        return name


def _known(things: Mapping[str, Thing], name: str, problem: str) -> Thing:
    if name not in things:
        raise BadRequest(problem, status=404)
    return things[name]


@web.middleware
async def _reject(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Words a wrong request as OpenAI does."""
    try:
        return await handler(request)
    except BadRequest as problem:
        return _respond(rejection(problem))


def _respond(reply: ChatReply) -> web.Response:
    return web.json_response(reply.body, status=reply.status)


def make_application(behaviour: Behaviour, latency_ms: int = 0, *, batches: bool = True) -> web.Application:
    """The stand-in behind HTTP.

    Args:
        behaviour: What judgments depend on.
        latency_ms: Milliseconds before each chat reply.
        batches: Whether it serves batches; the tests have their own.
    """

    async def chat(request: web.Request) -> web.Response:
        content = await request.read()
        await asyncio.sleep(latency_ms / 1000)
        return _respond(reply_to(content, behaviour))

    async def models(_: web.Request) -> web.Response:
        return web.json_response(model_list())

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": STANDIN_VERSION})

    application = web.Application(client_max_size=_LARGEST_BODY_BYTES, middlewares=[_reject])
    application.add_routes([web.post(CHAT, chat), web.get("/v1/models", models), web.get("/health", health)])
    application.add_routes(Batches(behaviour).routes() if batches else [])
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and serve; gives the exit code."""
    given = make_parser().parse_args(arguments)
    behaviour = Behaviour(given.position_bias, given.noise, given.prefers, given.logprobs)
    try:
        asyncio.run(serve(make_application(behaviour, given.latency_ms), "127.0.0.1", given.port))
    except TapirError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Serve the stand-in: a rule-based teacher and judge, no LLM.")
    options: dict[str, dict[str, Any]] = {
        "--port": {"type": int, "default": 0, "help": "port on 127.0.0.1; 0 takes a free one"},
        "--position-bias": {"type": float, "default": 0.5, "help": "points added to the answer shown first"},
        "--noise": {"type": float, "default": 0.5, "help": "standard deviation of the judge's scores, in points"},
        "--latency-ms": {"type": int, "default": 0, "help": "milliseconds before each reply"},
        "--prefers": {"choices": get_args(Preference), "default": "better", "help": "which answer wins in benchmarks"},
        "--no-logprobs": {"dest": "logprobs", "action": "store_false", "help": "give no log-probabilities"},
    }
    for name, settings in options.items():
        parser.add_argument(name, **settings)
    return parser


if __name__ == "__main__":
    sys.exit(main())
