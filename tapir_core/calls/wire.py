"""Between our values and OpenAI's chat completions: the body that is sent, and what a reply or an error means.

Pure functions on plain data; nothing here sends anything. A reply is cleaned so that it can be stored as it is
returned: lone surrogates and NUL characters, which databases refuse, become U+FFFD.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from tapir_core.calls.limits import RateLimit, read_number, read_seconds
from tapir_core.calls.types import Answer, Endpoint, Failure, FailureKind, Outcome, Request

_TOO_LONG_PHRASES = (
    "context length",
    "context size",
    "context window",
    "context_length",
    "exceeds the maximum number of tokens",
    "maximum context",
    "prompt is too long",
)
_TOO_LONG_CODES = ("context_length_exceeded", "string_above_max_length")
_REFUSED_CODES = ("content_filter", "content_policy_violation")
_UNSUPPORTED_CODES = ("unsupported_parameter", "unsupported_value")
_UNSUPPORTED_PHRASES = (
    *("unsupported", "not supported", "does not support", "unknown name", "cannot both be specified", "deprecated"),
    *("not permitted", "not allowed", "not enabled", "unrecognized", "can't be used at the same time"),
)
"""What a message says of a field that the endpoint refuses, where no code does."""
_PARAMETERS = (
    *("top_p", "temperature", "max_tokens", "max_completion_tokens", "seed", "top_logprobs", "logprobs"),
    *("response_format", "reasoning_effort", "thinking", "extra_body"),
)
"""Fields that a message may name; of several the first is what does without the least."""
_ASKED_BY_FEW = ("logprobs", "top_logprobs")
"""Fields that some requests have: who refuses one answers the others."""
_USED_UP = "the model spent all {tokens} tokens on thinking and none on an answer. {remedy}"
_MORE_ROOM = "Raise max_tokens of this sampling, or lower reasoning_effort"
_USED_UP_PHRASE = "could not finish the message because max_tokens"
_ENDPOINT_CODES = ("model_not_found", *_UNSUPPORTED_CODES, "unknown_url")
"""Codes under which the endpoint would refuse every row alike: storing them as terminal would poison the store."""
_WRONG_KEY_BEGINNINGS = ("api key ", "incorrect api key", "invalid api key")
"""How the message of a 400 begins where a provider words a wrong key so: as a row's own failure it would be stored."""
_UNPAID_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "arrearage")
_UNPAID_BEGINNINGS = ("your credit balance is too low", "insufficient balance")
"""How the message of a 400 begins where an account is empty; topped up, the same row is answered."""
_INTERRUPTED = ("abort", "error", "insufficient_system_resource")
"""Finish reasons of replies that broke off in the server: what stands there is no answer; another try brings one."""

_CUT_OFF_STATUSES = frozenset({408, 504, 524})
"""What a server or gateway says that gave up waiting: the model may have answered, and the provider charges for it."""

_LONGEST_MESSAGE = 500
"""Characters of a provider's error text that are kept."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What one attempt brought."""

    outcome: Outcome
    attempts: int = 1
    """Attempts made for the request, this one included."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    cost_unknown: bool = False
    """True when the provider may charge more than the reply says: it did not come whole, or does not say."""
    raw: str | None = None
    """The body as it came."""
    retry_after_seconds: float | None = None
    """The server's own wish for the pause before the next attempt."""
    endpoint_at_fault: bool = False
    """True when every other request to this endpoint would fail the same way."""
    rate_limits: tuple[RateLimit, ...] = ()
    """The limits per minute that the reply's headers show."""

    @property
    def shows_spent_account(self) -> bool:
        """True for a 429 that comes from a limit per minute, and not from too many calls at once."""
        limited = isinstance(self.outcome, Failure) and self.outcome.kind == "rate_limited"
        return limited and any(limit.remaining < 1 for limit in self.rate_limits)


def request_body(request: Request, endpoint: Endpoint) -> dict[str, Any]:
    """The JSON body of ``request`` at ``endpoint``; the sample index is the seed wherever a seed can matter."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": message.role, "content": clean_text(message.content)} for message in request.messages],
    }
    if sampling.temperature != "provider":
        body["temperature"] = sampling.temperature
    if sampling.top_p != "provider":
        body["top_p"] = sampling.top_p
    body[endpoint.tokens_field] = sampling.max_tokens
    if endpoint.seed and (sampling.temperature != 0 or request.sample_index > 0):
        body["seed"] = request.sample_index
    if request.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.schema:
        schema = {"name": "reply", "strict": True, "schema": json.loads(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return {**body, **endpoint.body_fields}


def read_completion(raw: str, endpoint: Endpoint) -> Reply:
    """What a body under status 200 means: an answer, a typed refusal, or a server failure."""
    try:
        body = json.loads(raw)
    except ValueError:
        return Reply(Failure("server", f"the reply is no JSON: {_clip(raw)!r}"), cost_unknown=True, raw=raw)
    if not isinstance(body, dict):
        return Reply(Failure("server", f"the reply is no chat completion: {_clip(raw)!r}"), cost_unknown=True, raw=raw)
    usage = _mapping(body.get("usage"))
    prompt_tokens, said = _integer(usage.get("prompt_tokens")), _integer(usage.get("completion_tokens"))
    # Some leave thoughts out of the completion and charge for them all the same.
    completion_tokens = max(said, _integer(usage.get("total_tokens")) - prompt_tokens)
    prices = endpoint.usd_per_million_prompt_tokens, endpoint.usd_per_million_completion_tokens
    usd = (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6
    if body.get("error"):
        error = read_error(_integer(_mapping(body["error"]).get("code")) or 500, body, raw=raw)
        return replace(error, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, usd=usd)
    details = _mapping(usage.get("completion_tokens_details"))
    thought = completion_tokens > said or _integer(details.get("reasoning_tokens")) > 0
    outcome = _read_choice(
        body,
        Answer("", "", prompt_tokens, completion_tokens, usd),
        thought=thought,
        strip=endpoint.thinking == "strip",
    )
    return Reply(
        outcome,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        usd=usd,
        cost_unknown=not prompt_tokens + completion_tokens,
        raw=raw,
    )


def read_logprobs(raw: str | None) -> tuple[tuple[str, float], ...]:
    """What a kept body says of its first token; nothing where it says nothing, or was not kept."""
    body = _mapping(json.loads(raw)) if raw else {}
    choices = body.get("choices")
    return _read_logprobs(_mapping(choices[0])) if isinstance(choices, list) and choices else ()


def read_error(status: int, body: object, *, raw: str | None, headers: Mapping[str, str] | None = None) -> Reply:
    """What an error status means; ``body`` is the decoded JSON, or the text that is none."""
    # Some wrap the error in a list.
    whole = _mapping(body[0] if isinstance(body, list) and body else body)
    error = _mapping(whole.get("error")) or whole
    code = str(error.get("code") or error.get("type") or "").lower()
    said = error.get("message") or error.get("detail") or whole.get("error") or body
    text = said if isinstance(said, str) else json.dumps(said, default=str)
    parameter = _unsupported(status, code, str(error.get("param") or ""), text)
    if parameter in _ASKED_BY_FEW:
        kind: FailureKind = "bad_request"
    else:
        kind = "unsupported" if parameter else _kind_of(status, code, text.lower())
    message = f"HTTP {status}: {_clip(text)}" if text else f"HTTP {status}"
    message += f" {_MORE_ROOM}" if kind == "used_up" else ""
    retry_after = read_retry_after(headers or {}, now=datetime.now(UTC))
    return Reply(
        Failure(kind, message, parameter=parameter),
        cost_unknown=status in _CUT_OFF_STATUSES,
        raw=raw,
        retry_after_seconds=retry_after,
        endpoint_at_fault=kind in {"unauthorized", "connection", "unsupported"},
    )


def read_retry_after(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, or `Retry-After`: seconds, a duration or a date."""
    milliseconds = read_number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    return read_seconds(headers.get("retry-after", ""), parsedate_to_datetime, now=now)


def clean_text(text: str) -> str:
    """``text`` as every database takes it: no lone surrogates, no NUL."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x00", "�")


def _unsupported(status: int, code: str, parameter: str, text: str) -> str:
    """The field of every request that the endpoint refuses; empty where the error is about something else.

    OpenAI names it in ``param``; others quote it, or several of them, in the message alone.
    """
    if status not in {400, 403, 422} or any(phrase in text.lower() for phrase in _TOO_LONG_PHRASES):
        return ""
    if code in _UNSUPPORTED_CODES and parameter:
        return parameter
    if not any(phrase in text.lower() for phrase in _UNSUPPORTED_PHRASES):
        return ""
    return next((name for name in _PARAMETERS if re.search(rf"\b{name}\b", text)), "")


def _kind_of(status: int, code: str, text: str) -> FailureKind:
    if code in _REFUSED_CODES:
        return "refused"
    if _USED_UP_PHRASE in text:
        return "used_up"
    wrong_key = status == 400 and text.replace("%20", " ").startswith(_WRONG_KEY_BEGINNINGS + _UNPAID_BEGINNINGS)
    if wrong_key or code in _UNPAID_CODES or status in {401, 402, 403}:
        return "unauthorized"
    # 404 and 405 say that the address or the model is wrong, 407 that a proxy wants a password: not the row's fault.
    if code in _ENDPOINT_CODES or status in {404, 405, 407}:
        return "connection"
    if (
        status == 413
        or code in _TOO_LONG_CODES
        or (status < 500 and any(phrase in text for phrase in _TOO_LONG_PHRASES))
    ):
        return "too_long"
    if status == 429:
        return "rate_limited"
    if status == 408:
        return "timeout"
    return "bad_request" if 400 <= status < 500 and status not in {409, 425} else "server"


def _read_choice(body: dict[str, Any], empty: Answer, *, thought: bool, strip: bool) -> Outcome:
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        return Failure("server", "the reply has no choices")
    choice = _mapping(choices[0])
    message, finish_reason = _mapping(choice.get("message")), str(choice.get("finish_reason") or "")
    if message.get("refusal"):
        return Failure("refused", _clip(str(message["refusal"])))
    if finish_reason == "content_filter":
        return Failure("refused", "stopped by the provider's content filter")
    if finish_reason in _INTERRUPTED:
        return Failure("server", f"the reply broke off ({finish_reason})")
    content = _text_of(message.get("content"))
    if not isinstance(content, str | None) or "message" not in choice:
        return Failure("server", "the reply has no text")
    text = clean_text(content or "")
    answer = strip_thoughts(text) if strip else text
    thought = thought or answer != text or bool(message.get("reasoning") or message.get("reasoning_content"))
    if finish_reason == "length" and thought and not answer.strip():
        return Failure("used_up", _USED_UP.format(tokens=empty.completion_tokens, remedy=_MORE_ROOM))
    return replace(empty, text=answer, finish_reason=finish_reason, logprobs=_read_logprobs(choice))


def strip_thoughts(text: str) -> str:
    """``text`` without the thoughts before it, also where the opening tag stood in the prompt, or the closing lacks."""
    thoughts, closing, answer = text.partition("</think>")
    if closing:
        return answer.lstrip() if thoughts.count("<think>") <= 1 else text
    return "" if text.lstrip().startswith("<think>") else text


def _text_of(content: object) -> object:
    """Of a list of parts with text or reasoning (models that show theirs give one) the text; anything else as it is."""
    parts = [_mapping(each) for each in content] if isinstance(content, list) else []
    if not {"text", "thinking", "reasoning"} & {each.get("type") for each in parts}:
        return content
    return "".join(str(each.get("text") or "") for each in parts if each.get("type") == "text")


def _read_logprobs(choice: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """The first token's alternatives, as far as they are what they should be."""
    tokens = _mapping(choice.get("logprobs")).get("content")
    listed = _mapping(tokens[0]).get("top_logprobs") if isinstance(tokens, list) and tokens else None
    found = [_mapping(each) for each in listed] if isinstance(listed, list) else []
    pairs = [(each.get("token"), each.get("logprob")) for each in found]
    return tuple(
        (clean_text(token), float(logprob))
        for token, logprob in pairs
        if isinstance(token, str) and isinstance(logprob, int | float) and not math.isnan(logprob)
    )


def _clip(text: str) -> str:
    text = clean_text(text).strip()
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _integer(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
