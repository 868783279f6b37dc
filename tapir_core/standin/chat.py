"""One chat request in, one reply out: what the teacher or the judge says, as OpenAI words it. Sends nothing."""

import json
import time
from dataclasses import dataclass
from typing import Any, Literal

from tapir_core.standin.annotator import annotate
from tapir_core.standin.behaviour import Behaviour
from tapir_core.standin.judge import judge
from tapir_core.standin.sections import Ask, Kind, Refusal, Reply, read_ask
from tapir_core.standin.teacher import answer, expand, label, refine
from tapir_core.standin.wire import BadRequest, completion, error_body, parse_chat

__all__ = ["ChatReply", "Outcome", "reply_to", "reply_to_json"]

Outcome = Literal["answered", "refused", "rejected", "failed"]
"""How a request ended: `rejected` as wrong in itself, `failed` by a fault that was ordered."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A reply that can be sent."""

    status: int
    body: dict[str, Any]
    outcome: Outcome
    kind: Kind | None
    """Nothing for a rejected request."""


def reply_to(content: bytes, behaviour: Behaviour) -> ChatReply:
    """The reply to a request's bytes; a wrong request is a reply too."""
    try:
        body = json.loads(content)
    except ValueError as exc:
        return _rejection(BadRequest(f"the body is not JSON: {exc}"))
    return reply_to_json(body, behaviour)


def reply_to_json(body: Any, behaviour: Behaviour) -> ChatReply:
    """The reply to a request's decoded JSON."""
    try:
        chat = parse_chat(body)
    except BadRequest as problem:
        return _rejection(problem)
    ask = read_ask(chat.messages, chat.seed)
    kind: Kind = ask.kind if isinstance(ask, Ask) else "answer"
    reply = _say(ask, behaviour) if isinstance(ask, Ask) else ask
    outcome: Outcome = "refused" if isinstance(reply, Refusal) else "answered"
    return ChatReply(200, completion(chat, reply, created=int(time.time()), logprobs=behaviour.logprobs), outcome, kind)


def _rejection(problem: BadRequest) -> ChatReply:
    return ChatReply(problem.status, error_body(problem), "rejected", None)


def _say(ask: Ask, behaviour: Behaviour) -> Reply:
    if ask.kind == "judge":
        return judge(ask, position_bias=behaviour.position_bias, noise=behaviour.noise)
    if ask.kind == "benchmark":
        return annotate(ask, behaviour)
    return {"answer": answer, "label": label, "expand": expand, "refine": refine}[ask.kind](ask)
