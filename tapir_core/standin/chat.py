"""One chat request in, one reply out: what the teacher or the judge says, as OpenAI words it. Sends nothing.

Limits: chat completions of one choice, without streaming and tools.
"""

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from tapir_core.standin.judge import Behaviour, annotate, judge
from tapir_core.standin.teacher import Ask, Refusal, Reply, Weighted, answer, expand, label, read_ask, refine

MODELS = ("standin-teacher", "standin-judge")

_TOKEN = re.compile(r"\w+|[^\w\s]")


class BadRequest(Exception):
    """Raised when the request itself is wrong; becomes an error reply as OpenAI's."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


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
        reply: Reply | Refusal = _say(read_ask(chat.messages, chat.seed), behaviour)
    except BadRequest as problem:
        return rejection(problem)
    except Refusal as refusal:
        reply = refusal
    return ChatReply(200, completion(chat, reply, created=int(time.time()), logprobs=behaviour.logprobs))


def rejection(problem: BadRequest) -> ChatReply:
    """An error as OpenAI words it."""
    error = {"message": str(problem), "type": "invalid_request_error", "param": None, "code": problem.code}
    return ChatReply(problem.status, {"error": error})


def _say(ask: Ask, behaviour: Behaviour) -> Reply:
    if ask.kind == "judge":
        return judge(ask, behaviour)
    if ask.kind == "benchmark":
        return annotate(ask, behaviour)
    return {"answer": answer, "label": label, "expand": expand, "refine": refine}[ask.kind](ask)


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
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise BadRequest("'messages' must be a list of messages, not empty")
    if body.get("stream") or body.get("n", 1) not in (1, None):
        raise BadRequest("the stand-in sends one choice and does not stream")
    max_tokens, seed = body.get("max_completion_tokens") or body.get("max_tokens"), body.get("seed")
    for name, value in (("max_tokens", max_tokens), ("seed", seed)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise BadRequest(f"'{name}' must be an integer, not {value!r}")
    wanted = body.get("top_logprobs") or 0
    if not isinstance(wanted, int) or not 0 <= wanted <= 20 or (wanted and not body.get("logprobs")):
        raise BadRequest("'top_logprobs' must be an integer from 0 to 20, and needs 'logprobs'")
    return ChatRequest(model, messages, max_tokens, seed, wanted)


def completion(chat: ChatRequest, reply: Reply | Refusal, *, created: int, logprobs: bool = True) -> dict[str, Any]:
    """The reply as a chat completion, cut off after ``max_tokens`` tokens (words and punctuation marks).

    Log-probabilities are those of a weighted reply's one token, where they are asked for and given at all.
    """
    weights: dict[str, Any] | None = None
    if isinstance(reply, Weighted):
        weights = _logprobs(reply, chat.top_logprobs) if logprobs and chat.top_logprobs else None
        reply = reply.text
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    finish_reason = "stop"
    if isinstance(reply, Refusal):
        message["refusal"] = reply.reason
        tokens = len(_TOKEN.findall(reply.reason))
    else:
        ends = [match.end() for match in _TOKEN.finditer(reply)]
        tokens = len(ends)
        if chat.max_tokens is not None and tokens > chat.max_tokens:
            tokens, finish_reason = chat.max_tokens, "length"
            reply = reply[: ends[tokens - 1]] if tokens > 0 else ""
        message["content"] = reply
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
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "tapir"} for name in MODELS]
    return {"object": "list", "data": models}
