"""Translates between our values and OpenAI's chat completions: request bodies, replies and errors.

Pure functions on plain data; nothing here sends anything. Lone surrogates and NUL characters in a reply, which
databases refuse, become U+FFFD.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tapir_core import thoughts, tools
from tapir_core.calls import limits, types, words
from tapir_core.config import Role

_SENT_BEFORE = re.compile(r"\A(?:[\s\ufeff]+|:.*\n)+")
"""Sent by some before a body to keep the connection open: blank lines and comments; and a byte order mark."""
_MINIMAX = {"1002": 429, "1039": 429, "1004": 401, "1008": 402}
"""Codes of MiniMax → the statuses that mean the same."""
_OVERLOADED = ("HTTP 503", "HTTP 529")
"""Beginnings of failures of a server that asks to try later."""
_ONLY_THOUGHTS = (
    "the reply has thoughts (reasoning_content) and no answer; where the server's reasoning parser takes answers for "
    "thoughts, switch it off"
)
_MORE_ROOM = "Raise max_tokens of this sampling, or lower reasoning_effort"
_ASKED_BY_FEW = ("logprobs", "top_logprobs")
"""Fields of some requests only: an endpoint that refuses one answers the other requests."""
TRAINED_ON: tuple[Role, ...] = ("teach", "refine")
"""Roles in which an answer at the token limit counts as cut off, whatever its finish reason."""

_DIGITS = 6
"""Of a log-probability, behind the point: more than a model in 16 bits means."""
_TOKENS = "tapir_tokens"
"""What is kept in place of a body that was read token by token."""

_ESCAPED = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
"""What may be half a character or NUL in JSON."""
_IMPOSSIBLE = 1e9
"""No count of tokens, and no log-probability; twice as much fits a database's integer."""

_LONGEST_MESSAGE = 500
"""Characters of a provider's error text that are kept."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of one attempt."""

    outcome: types.Outcome
    spent: types.Spend = field(default_factory=lambda: types.Spend(requests=1))
    """What the attempts made for the request cost, this one included."""
    cost_unknown: bool = False
    """True if the provider may charge more than the reply says: it is incomplete, or does not say."""
    raw: str | None = None
    """The body as received."""
    retry_after_seconds: float | None = None
    """The pause before a retry that the server asks for."""
    endpoint_at_fault: bool = False
    """True if every other request to this endpoint would fail the same way, as far as one reply shows."""
    refuses_everybody: bool = False
    """True if the reply itself says so: the key or the model is wrong."""
    model: str = ""
    """The model that answered, according to the provider."""
    is_completion: bool = False
    """True if the provider considers the request answered: it will charge for it."""
    rate_limits: tuple[limits.RateLimit, ...] = ()
    """The limits per minute that the reply's headers show."""

    @property
    def failure(self) -> types.Failure:
        """The outcome of a reply that is known to be a failure."""
        assert isinstance(self.outcome, types.Failure)
        return self.outcome

    @property
    def useless(self) -> str:
        """The error of a reply without an answer, without what varies between equal ones; else empty."""
        if (
            not isinstance(self.outcome, types.Failure)
            or self.outcome.kind != "server"
            or self.raw is None
            or self.retry_after_seconds is not None
            or self.outcome.message.startswith(_OVERLOADED)
        ):
            return ""
        return re.sub(r"\S*\d\S*", "#", self.outcome.message)

    @property
    def shows_spent_account(self) -> bool:
        """True for a 429 because of a limit per minute, not because of too many calls at once."""
        limited = isinstance(self.outcome, types.Failure) and self.outcome.kind == "rate_limited"
        return limited and any(limit.remaining < 1 for limit in self.rate_limits)


def request_body(request: types.Request, endpoint: types.Endpoint) -> dict[str, Any]:
    """The JSON body of ``request`` at ``endpoint``; the sample index is the seed if a seed can matter."""
    sampling = request.sampling
    if scored := request.scored:
        asked = {"prompt": [*scored.prompt, *scored.answer], "prompt_logprobs": scored.top_k, "max_tokens": 1}
        return {"model": request.model, "temperature": 0, **asked}
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    said = ((message.role, clean_text(message.content)) for message in request.messages)
    messages, defined = tools.structured(said, as_text=True)
    is_seeded = endpoint.seed and (sampling.temperature != 0 or request.sample_index > 0)
    schema = {"name": "reply", "strict": True, "schema": json.loads(request.schema)} if request.schema else None
    return {
        "model": request.model,
        "messages": messages,
        **({"tools": defined} if defined else {}),
        **{name: value for name, value in drawn.items() if value != "provider"},
        **sampling.more_fields,
        endpoint.tokens_field: sampling.max_tokens,
        **({"seed": request.sample_index} if is_seeded else {}),
        **({"logprobs": True, "top_logprobs": request.top_logprobs} if request.top_logprobs else {}),
        **({"logprobs": True, "return_token_ids": True} if request.with_tokens else {}),
        **({"response_format": {"type": "json_schema", "json_schema": schema}} if schema else {}),
        **endpoint.body_fields,
    }


def most_tokens(request: types.Request, endpoint: types.Endpoint) -> int:
    """The most tokens that an answer may take: what the endpoint's own fields say goes first."""
    own = (_integer(endpoint.body_fields.get(name)) for name in ("max_tokens", "max_completion_tokens"))
    return max(own) or request.sampling.max_tokens


def read_completion(raw: str, endpoint: types.Endpoint, request: types.Request | None = None) -> Reply:
    """The meaning of a body with status 200: an answer, a typed refusal, or a failure.

    With its ``request``, an answer to be trained on that used all its tokens is cut off, whatever its finish reason.
    """
    sent = _without_preamble(raw)
    if sent.startswith("<"):
        return Reply(
            types.Failure("connection", f"a web page came in place of a reply: {_clip(raw)!r}"),
            raw=raw,
            endpoint_at_fault=True,
        )
    body = json_or_text(sent)
    if not isinstance(body, dict):
        return Reply(
            types.Failure("server", f"the reply is no {'JSON' if body is sent else 'chat completion'}: {_clip(raw)!r}"),
            cost_unknown=True,
            raw=raw,
        )
    choice, usage = _first(body.get("choices")), _mapping(body.get("usage"))
    prompt_tokens, completion_tokens, said = _read_usage(usage)
    spent = types.Spend(1, prompt_tokens, completion_tokens, endpoint.usd(prompt_tokens, completion_tokens))
    if error := body.get("error") or choice.get("error") or _failed_call(body):
        status = _integer(_mapping(error).get("code"))
        return replace(read_error(status if 400 <= status < 600 else 500, {"error": error}, raw=raw), spent=spent)
    if request is not None and request.scored:
        tokens = _read_scores(choice, request.scored)
        return _with_tokens(types.Answer("", "stop", prompt_tokens, completion_tokens, spent.usd), tokens, spent, raw)
    outcome = _read_choice(
        choice,
        types.Answer("", "", prompt_tokens, completion_tokens, spent.usd),
        thought=completion_tokens > said or _details(usage, "completion", "reasoning") > 0,
        strip=endpoint.thinking == "strip" or (request is not None and request.role == "label"),
        calls=request is None or any(message.role == tools.TOOLS for message in request.messages),
    )
    if outcome is None:
        blocked, shown = words.find_block(body), _clip(raw)
        outcome = (
            types.Failure("refused", f"blocked: {blocked}: {shown}")
            if blocked
            else types.Failure("server", f"the reply has no answer: {shown}")
        )
    elif (body.get("amazon-bedrock-guardrailAction") or "NONE") != "NONE":
        outcome = types.Failure("refused", "stopped by the provider's guardrail")
    elif isinstance(outcome, types.Answer) and request is not None and request.role in TRAINED_ON:
        most = most_tokens(request, endpoint)
        # For some providers the limit covers thoughts, for others it does not.
        is_full = most == said or said - _details(usage, "completion", "reasoning") >= most
        outcome = replace(outcome, finish_reason=words.CUT_OFF) if is_full else outcome
    if isinstance(outcome, types.Answer) and request is not None and request.with_tokens:
        return _with_tokens(outcome, _read_drawn(body, choice), spent, raw)
    return Reply(
        outcome,
        spent=spent,
        # Some count the prompt alone, and charge for the answer all the same.
        cost_unknown=not (completion_tokens if isinstance(outcome, types.Answer) and outcome.text else spent.tokens),
        raw=raw,
        is_completion="choices" in body,
        model=str(body.get("model") or ""),
    )


def _with_tokens(answer: types.Answer, tokens: types.Tokens | None, spent: types.Spend, raw: str) -> Reply:
    """An answer token by token, in place of whose body, tens of times as long, the tokens are kept."""
    if tokens is None:
        said = f"the reply has no token ids with log-probabilities, as vLLM gives them: {_clip(raw)!r}"
        return Reply(types.Failure("server", said), spent=spent, raw=raw)
    kept = json.dumps({_TOKENS: [tokens.prompt, tokens.ids, tokens.log_probs, tokens.top]}, separators=(",", ":"))
    return Reply(replace(answer, tokens=tokens), spent=spent, raw=kept, is_completion=True)


def read_tokens(raw: str | None) -> types.Tokens | None:
    """The tokens in a stored body that holds them."""
    if not raw or not raw.startswith(f'{{"{_TOKENS}"'):
        return None
    prompt, ids, log_probs, top = json.loads(raw)[_TOKENS]
    likeliest = tuple(tuple((int(token), float(said)) for token, said in place) for place in top)
    return types.Tokens(tuple(prompt), tuple(ids), tuple(log_probs), likeliest)


def _read_drawn(body: dict[str, Any], choice: dict[str, Any]) -> types.Tokens | None:
    """Of an answer that was drawn, what it was drawn from."""
    prompt, ids = body.get("prompt_token_ids"), choice.get("token_ids")
    said = _mapping(choice.get("logprobs")).get("content")
    if not (isinstance(prompt, list) and isinstance(ids, list) and isinstance(said, list)) or len(ids) != len(said):
        return None
    log_probs = [_mapping(each).get("logprob") for each in said]
    known = tuple(round(float(each), _DIGITS) for each in log_probs if isinstance(each, int | float))
    return types.Tokens(tuple(prompt), tuple(ids), known) if len(known) == len(ids) else None


def _read_scores(choice: dict[str, Any], scored: types.Scored) -> types.Tokens | None:
    """Of each token of an answer what the model says of it; it adds the answer's own to the likeliest."""
    said = choice.get("prompt_logprobs")
    if not isinstance(said, list) or len(said) != len(scored.prompt) + len(scored.answer):
        return None
    places = [_mapping(each) for each in said[len(scored.prompt) :]]
    if not all(str(token) in place for token, place in zip(scored.answer, places, strict=True)):
        return None
    own = tuple(
        round(float(place[str(token)]["logprob"]), _DIGITS) for token, place in zip(scored.answer, places, strict=True)
    )
    likeliest = [
        sorted((each["rank"], int(token), round(float(each["logprob"]), _DIGITS)) for token, each in place.items())
        for place in places
    ]
    top = tuple(tuple((token, each) for rank, token, each in place if rank <= scored.top_k) for place in likeliest)
    return types.Tokens(scored.prompt, scored.answer, own, top if scored.top_k else ())


def _read_usage(usage: dict[str, Any]) -> tuple[int, int, int]:
    """Prompt tokens, all generated tokens, and those that the provider calls the completion."""
    prompt, said = (
        _integer(usage.get(name)) or _integer(usage.get(other))
        for name, other in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
    )
    cached, thoughts = _details(usage, "prompt", "cached"), _details(usage, "completion", "reasoning")
    # A part that is larger than its whole was left out of the whole, and is charged all the same.
    prompt += cached if cached > prompt else 0
    completion = said + thoughts if thoughts > said else said
    return prompt, max(completion, _integer(usage.get("total_tokens")) - prompt), said


def _details(usage: dict[str, Any], of: str, name: str) -> int:
    return _integer(_mapping(usage.get(f"{of}_tokens_details")).get(f"{name}_tokens"))


def read_content(raw: str) -> str:
    """The text of the message in a stored body as it came, thoughts included; empty without one."""
    body = _mapping(json_or_text(_without_preamble(raw)))
    content = _text_of(_mapping(_first(body.get("choices")).get("message")).get("content"))
    return content if isinstance(content, str) else ""


def read_logprobs(raw: str | None) -> tuple[tuple[str, float], ...]:
    """Log-probabilities of the first token in a stored body; empty if there are none, or no body."""
    return _read_logprobs(_first((_mapping(json_or_text(_without_preamble(raw))) if raw else {}).get("choices")))


def read_error(status: int, body: object, *, raw: str | None, headers: Mapping[str, str] | None = None) -> Reply:
    """The meaning of an error status; ``body`` is decoded JSON, or text that is no JSON."""
    # Some wrap the error in a list.
    whole = _mapping(body[0] if isinstance(body, list) and body else body)
    error = _mapping(whole.get("error")) or whole
    more = _mapping(error.get("metadata"))
    said = error.get("message") or error.get("detail") or whole.get("error") or body
    text = said if isinstance(said, str) else json.dumps(said, default=str)
    # A gateway's own message may say only that its provider failed.
    text += f" {more['raw']}" if isinstance(more.get("raw"), str) else ""
    codes = frozenset({*_codes(error), *(["content_filter"] if more.get("reasons") else [])})
    parameter = words.unsupported_field(status, codes, str(error.get("param") or ""), text)
    if parameter in _ASKED_BY_FEW:
        kind: types.FailureKind = "bad_request"
    else:
        kind = "unsupported" if parameter else words.read_error_words(status, codes, text.lower())
    message = f"HTTP {status}: {_clip(text)}" if text else f"HTTP {status}"
    message += f" {_MORE_ROOM}" if kind == "used_up" else ""
    return Reply(
        types.Failure(kind, message, parameter=parameter),
        cost_unknown=status in words.CUT_OFF_STATUSES,
        raw=raw,
        retry_after_seconds=limits.read_retry_after(headers or {}),
        endpoint_at_fault=kind in {"unauthorized", "connection", "unsupported"},
        refuses_everybody=words.refuses_everybody(status, codes, text.lower()),
    )


def clean_text(text: str) -> str:
    """``text`` without lone surrogates and NUL, which databases refuse."""
    # Most replies are ASCII, and CPython knows that without reading the text.
    whole = text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\x00", "�")


def json_or_text(raw: str) -> object:
    """The decoded JSON, in which every text is clean, or the text if it is no JSON."""
    try:
        body = json.loads(raw)
        return _cleaned(body) if _ESCAPED.search(raw) else body
    except (ValueError, RecursionError):
        return raw


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {clean_text(name): _cleaned(each) for name, each in value.items()}
    return (
        [*map(_cleaned, value)] if isinstance(value, list) else clean_text(value) if isinstance(value, str) else value
    )


def _without_preamble(raw: str) -> str:
    return raw if raw.startswith("{") else _SENT_BEFORE.sub("", raw, count=1)


def _read_choice(
    choice: dict[str, Any], empty: types.Answer, *, thought: bool, strip: bool, calls: bool
) -> types.Outcome | None:
    """The outcome of a choice; None if it has no message with text. ``calls`` are part of an answer to tools."""
    message, ending = _mapping(choice.get("message")), _ending_of(choice)
    if message.get("refusal"):
        return types.Failure("refused", _clip(str(message["refusal"])))
    if ending == words.REFUSED:
        return types.Failure("refused", f"stopped by the provider's content filter ({_said_ending(choice)})")
    if ending == words.BROKE_OFF:
        return types.Failure("server", f"the reply broke off ({_said_ending(choice)})")
    content = _text_of(message.get("content"))
    if not isinstance(content, str | None) or not message:
        return None
    text = content or ""
    parts = message["content"] if isinstance(message.get("content"), list) else ()
    apart = (
        message.get("reasoning_content")
        or message.get("reasoning")
        or message.get("reasoning_details")
        or "".join(str(_text_of(_mapping(each).get("thinking") or "")) for each in parts)
        or None
    )
    bare = words.strip_thoughts(text)
    # What a server puts apart is in the text only where it says it twice.
    answer = text.lstrip() if apart and words.thoughts_of(text, bare) != str(apart).strip() else bare
    told = "" if strip else apart if isinstance(apart, str) else words.thoughts_of(text, answer)
    if called := calls and (message.get("tool_calls") or message.get("function_call")):
        with suppress(ValueError):  # of no function: the answer is what it says beside
            answer = tools.message_text(answer, called)
    if not answer.strip():
        if ending == words.CUT_OFF and (thought or answer != text or apart):
            return types.Failure(
                "used_up",
                f"the model spent all {empty.completion_tokens} tokens on thinking and none on an answer. {_MORE_ROOM}",
            )
        if ending == words.CUT_OFF and empty.prompt_tokens and not empty.completion_tokens:
            return types.Failure("too_long", f"the prompt of {empty.prompt_tokens} tokens left no room for an answer")
        if apart:
            return types.Failure("no_answer", f"{_ONLY_THOUGHTS}: {_clip(str(apart))}")
    return replace(empty, text=thoughts.join(told, answer), finish_reason=ending, logprobs=_read_logprobs(choice))


def _ending_of(choice: dict[str, Any]) -> str:
    """The normalised finish reason: the gateway's, unless its provider's says that the answer is incomplete."""
    said = _said(choice.get("finish_reason")) or _said(choice.get("done_reason") or choice.get("stop_reason"))
    for natives in (choice, _mapping(choice.get("provider_specific_fields"))):
        native = natives.get("native_finish_reason")
        if native and (read := words.read_ending(_said(native))) in (words.CUT_OFF, words.REFUSED, words.BROKE_OFF):
            return read
    return words.read_ending(said)


def _said_ending(choice: dict[str, Any]) -> str:
    return ", ".join(str(choice[name]) for name in ("finish_reason", "native_finish_reason") if choice.get(name))


def _said(reason: object) -> str:
    """A finish reason; some wrap it in an object with a `type`."""
    return str((reason.get("type") if isinstance(reason, dict) else reason) or "")


def _failed_call(body: dict[str, Any]) -> dict[str, Any] | None:
    """The error that MiniMax wraps in a body of its own; None if there is none."""
    said = _mapping(body.get("base_resp"))
    code = str(said.get("status_code") or "")
    return {"code": _MINIMAX.get(code, code), "message": said.get("status_msg")} if code else None


def _codes(error: dict[str, Any]) -> Iterator[str]:
    """Every code of an error and of the errors that it wraps, in lower case."""
    for name in ("code", "type", "status"):
        yield from [str(error[name]).lower()] if error.get(name) else []
    for name in ("innererror", "provider_specific_fields"):
        yield from _codes(error[name]) if isinstance(error.get(name), dict) else ()


def _text_of(content: object) -> object:
    """The text of a list of text and reasoning parts, which some models return; anything else unchanged."""
    parts = [_mapping(each) for each in content] if isinstance(content, list) else []
    if not {"text", "output_text", "thinking", "reasoning"} & {each.get("type") for each in parts}:
        return content
    return "".join(str(each.get("text") or "") for each in parts if each.get("type") in ("text", "output_text"))


def _read_logprobs(choice: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """The first token's alternatives, without malformed ones."""
    listed = _first(_mapping(choice.get("logprobs")).get("content")).get("top_logprobs")
    found = [_mapping(each) for each in listed] if isinstance(listed, list) else []
    pairs = [(each.get("token"), each.get("logprob")) for each in found]
    return tuple(
        (token, float(logprob))
        for token, logprob in pairs
        if isinstance(token, str) and isinstance(logprob, int | float) and -math.inf <= logprob < _IMPOSSIBLE
    )


def _clip(text: str) -> str:
    text = clean_text(text).strip()
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(value: object) -> dict[str, Any]:
    """The first element of a list, if it is an object; else an empty one."""
    return _mapping(value[0]) if isinstance(value, list) and value else {}


def _integer(value: object) -> int:
    """A count, also from a text or a float; 0 if it is none."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        return 0
    return int(number) if 0 < number < _IMPOSSIBLE else 0
