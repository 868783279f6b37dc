"""The meaning of providers' finish reasons, block reasons, error codes and phrases, and of models' marks of thoughts.

Every provider has its own words for an answer that was cut off, a prompt that was blocked or does not fit, or a wrong
key; gateways pass them on. All of them are translated here and nowhere else.

Thoughts come before the answer: a mark further on belongs to the answer. Limits: if a reply closes thoughts that it did
not open (the opening mark was in the prompt), the first closing mark counts that begins a line, or ends a sentence or a
line, and is not in code.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from tapir_core import thoughts
from tapir_core.calls.types import FailureKind

WHOLE, CUT_OFF, REFUSED, BROKE_OFF, TOOL_CALLS = "stop", "length", "content_filter", "error", "tool_calls"
"""Our finish reasons, which are OpenAI's. A reply that broke off is requested again."""

_FINISH_REASONS = {
    WHOLE: (
        *("stop", "stop_sequence", "stop_token", "stop_word", "stop_words", "stop_str", "stop_string", "eos", "word"),
        *(
            "end_of_text",
            "endoftext",
            "stop_criteria_met",
            "eos_token",
            "eos_found",
            "stop_string_found",
            "matched_stop",
            "end_id",
            "end_turn",
            "end_of_turn",
        ),
        *("complete", "completed", "finish", "finished", "done", "normal", "success", "reason_stop", "null", "none"),
    ),
    TOOL_CALLS: ("tool_calls", "tool_call", "tool_use", "function_call", "reason_tool_calls"),
    CUT_OFF: (
        *("length", "limit", "token_limit", "length_limit", "length_capped", "max_length", "max_tokens", "max_token"),
        *("max_new_tokens", "max_output_tokens", "max_completion_tokens", "max_tokens_reached", "model_length"),
        *("max_predicted_tokens_reached", "context_length_reached", "context_length", "context_length_exceeded"),
        *("max_context", "max_context_length", "model_context_window_exceeded", "context_window_exceeded"),
        *("reason_max_len", "reason_max_context", "error_limit", "not_finished", "not_complete", "incomplete"),
        *("truncated", "is_truncated", "continuation", "compaction", "pause_turn", "repetition"),
    ),
    REFUSED: (
        *("content_filter", "content_filtered", "filtered", "filter", "refusal", "refused", "safety", "recitation"),
        *("blocklist", "blocked", "prohibited_content", "spii", "language", "jailbreak", "escalation", "model_armor"),
        *("image_safety", "image_prohibited_content", "image_recitation", "image_other", "no_image", "error_toxic"),
        *("guardrail", "guardrails", "guardrail_intervened", "intervened", "sensitive", "moderation", "risk_control"),
        *("content_policy_violation", "data_inspection_failed"),
    ),
    BROKE_OFF: (
        *("error", "abort", "aborted", "cancel", "cancelled", "canceled", "user_cancel", "user_stopped", "failed"),
        *("network_error", "server_error", "internal_error", "connection_error", "insufficient_system_resource"),
        *("timeout", "time_limit", "reason_time_limit", "rate_limit_exceeded", "load", "unload", "model_unloaded"),
        *("malformed_response", "malformed_model_output", "malformed_function_call", "malformed_tool_use"),
        *("unexpected_tool_call", "too_many_tool_calls", "missing_thought_signature"),
        *("engine_overloaded", "overloaded", "pup_limited_disabled"),
    ),
}
"""Our word → those of OpenAI, Azure, Anthropic, Gemini, Bedrock, Mistral, Cohere, xAI, DeepSeek, GLM, vLLM, SGLang,
TGI, TensorRT-LLM, LM Studio, Ollama, llama.cpp, and of gateways such as LiteLLM and OpenRouter, in `_plain` form."""
_OURS = {word: ours for ours, words in _FINISH_REASONS.items() for word in words}

_OF_LIMIT = re.compile(r"trunc|max(?:imum)?_|_limit|_length|too_long")
_OF_FILTER = re.compile(r"filter|blacklist|safety|censor|prohibited|moderat")
"""Parts of unknown words."""

_ENDING_FIELDS = ("finish_reason", "native_finish_reason", "stop_reason", "done_reason")
_BLOCK_FIELDS = ("block_reason", "blocked_reason", "amazon_bedrock_guardrail_action")

_REFUSED_CODES = {
    *("content_filter", "content_policy_violation", "responsibleaipolicyviolation", "invalid_prompt", "bio_policy"),
    *("data_inspection_failed", "datainspectionfailed", "guardrail_intervened", "1301", "1026", "1027", "refusal"),
}
_REFUSED_PHRASES = (
    *("content management policy", "content policy", "content filtering policy", "content_policy_violation"),
    *("usage policy", "usage policies", "safety system", "was flagged", "been flagged", "requires moderation"),
    *("inappropriate content", "considered high risk", "content exists risk", "blocked by our content filter"),
    *("response was blocked", "prompt was blocked", "prohibited_content", "responsible ai", "by guardrail"),
    *("sensitive content", "data_inspection_failed", "敏感内容"),
)
"""Parts of an error's message if the prompt or its answer is not allowed."""
_OF_ACCOUNT = ("account", "organization", "api key", "resource", "access", "project", "subscription", "your ip")
"""With one of these a refusal is not about the prompt."""
_OF_PROMPT = re.compile(r"your (?:input|prompt|request|message)|flagged")
"""Without this a 403 is about rights."""

_DOES_NOT_FIT = re.compile(
    r"""maximum\ (?:model|context|prompt|input|sequence|allowed|allowed\ input)\ (?:length|limit)
    | (?:longer|greater)\ than\ the\ (?:model's\ )?(?:maximum\ )?(?:context|model|prompt|input)
    | exceed(?:s|ed)?\ (?:the\ |model's\ )?(?:maximum\ |available\ |max\ |max_)?(?:number\ of\ tokens|context)
    | exceeded\ model\ token\ limit
    | exceeds\ (?:the\ )?maximum\ (?:input|sequence|allowed)\ length | exceeds\ the\ kv\ memory\ budget
    | tokens\ exceed\ the\ configured\ limit | exceed\ context\ limit | context\ (?:window|length)\ exceed
    | context_length_ | input\ tokens\ \d+\ cannot\ exceed
    | tokens?\ (?:\(\d+\)\ |\d+\ )?exceeds?\ (?:the\ )?(?:model|total|\d)
    | (?:prompt|input)\ (?:is\ )?too\ long | too\ many\ input\ tokens | prompt\ has\ too\ many\ tokens
    | too\ large\ for\ model\ with | prompt\ exceeds
    | (?:prompt|input)\ token\ (?:count|length)\b.{0,40}(?:exceed|too\ long)
    | tokens\ to\ keep\ from\ the\ initial\ prompt | keep\ the\ first\ \d+\ tokens\ when\ context
    | tokens`?\ \+\ `?max_new_tokens`?\ must\ be\ <= | inputs`?\ must\ have\ less\ than | range\ of\ input\ length
    | prompt\ tokens\ too\ long | tokens_too_long | characters_too_long | prompt\ 超长
    | tokens\ in\ request\ more\ than\ max | configured\ context\ size | current\ length\ is\ \d+\ while\ limit""",
    re.VERBOSE,
)
"""What a message says of a prompt that does not fit, under any status: of vLLM, SGLang, TGI, TensorRT-LLM, llama.cpp,
LM Studio, Ollama, OpenAI, Anthropic, Gemini, Bedrock, Mistral, xAI, DashScope, GLM, Moonshot, Qianfan and gateways."""
_ABOUT_LENGTH = (
    *("size limit exceeded", "string with maximum length", "more than n_ctx"),
    *("context length", "context size", "context window", "maximum context", "length limit exceeded"),
    *("max_num_tokens", "max_input_length", "max_seq_len", "max_model_len"),
)
"""The same, only under a status that blames the request."""
_TOO_LONG_CODES = {
    *("context_length_exceeded", "context_length_error", "string_above_max_length", "exceed_context_size_error"),
    *("request_too_large", "1261"),
}
_PER_MINUTE = ("rate limit", "rate_limit", "per minute", "tokens per min", "too many requests", "per day")
_NEVER_FITS = re.compile(r"(?:token|tpm|tpd).{0,40}limit:? ([\d,]+).{0,20}requested:? ([\d,]+)")
"""A limit per minute that is smaller than one request."""
CUT_OFF_STATUSES = frozenset({408, 504, 524})
_USED_UP_PHRASE = "could not finish the message because max_tokens"

_UNSUPPORTED_CODES = ("unsupported_parameter", "unsupported_value")
_UNSUPPORTED_PHRASES = (
    *("unsupported", "not supported", "does not support", "unknown name", "cannot both be specified", "deprecated"),
    *("not permitted", "not allowed", "not enabled", "unrecognized", "can't be used at the same time"),
)
"""Parts of a message about a field that the endpoint refuses, if no code says so."""
_PARAMETERS = (
    *("top_p", "temperature", "max_tokens", "max_completion_tokens", "seed", "top_logprobs", "logprobs"),
    *("response_format", "reasoning_effort", "thinking", "extra_body"),
)
"""Fields that a message may name; of several the first one is left out."""
_MODEL_CODES = {"model_not_found", "model_decommissioned", "invalid_model"}
_ENDPOINT_CODES = {*_MODEL_CODES, *_UNSUPPORTED_CODES, "unknown_url"}
"""Codes with which the endpoint would refuse every row: storing them as terminal would poison the store."""
_UNLOADED = re.compile(r"failed to load model|no models? (?:is |are )?loaded")
"""What LM Studio says, of any request."""
_ILL_FORMED_CODES = {"json_validate_failed", "tool_use_failed"}
"""Of a reply of the model's that its provider would not pass on: the next one may be well formed."""
_WRONG_KEY_BEGINNINGS = ("api key ", "incorrect api key", "invalid api key")
"""Beginnings of the message of a 400 about a wrong key: as a failure of the row it would be stored."""
_UNPAID_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "arrearage"}
_UNPAID_BEGINNINGS = (
    *("your credit balance is too low", "insufficient balance", "you have reached your specified api usage limits"),
    *("budget has been exceeded", "exceededbudget", "this organization has been disabled", "account "),
    "user location is not supported",
)
"""Beginnings of the message of a 400 about an empty account; once it is topped up, the same row is answered."""

_PAIRS = (
    *((f"<{each}>", f"</{each}>") for each in ("think", "thinking", "thought", "reasoning")),
    *((f"<{each}>", f"</{each}>") for each in ("seed:think", "mm:think", "longcat_think")),
    *((f"<ifm|{each}>", f"</ifm|{each}>") for each in ("think", "think_fast", "think_faster")),
    *((f"<|{each}|>", f"</|{each}|>") for each in ("thinking", "thought")),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<unused94>thought", "<unused95>"),
    ("[unused16]", "[unused17]"),
    ("Here is my thought process:", "Here is my response:"),
    ("Here's my thought process:", "Here's my response:"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    ("analysis", "assistantfinal"),  # the marks of gpt-oss where a server drops special tokens
)
"""Opening → closing, of DeepSeek, Qwen, GLM, Magistral, Seed-OSS, Kimi, OpenThinker, Cohere, Apertus, Solar, Gemma,
gpt-oss, MedGemma, Pangu, Granite, Apriel and prompts that ask for such marks."""
_WRAPPERS = (
    *((f"<{each}>", f"</{each}>") for each in ("answer", "response")),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
    *(("", each) for each in ("[END FINAL RESPONSE]", "<|return|>", "<|end|>")),
)
"""Marks that some of them put around the answer after their thoughts."""
_CLOSING = {
    **{opening.lower(): re.compile(re.escape(closing) + r"\s*", re.IGNORECASE) for opening, closing in _PAIRS},
    **dict.fromkeys(("<think>", "<thinking>"), re.compile(r"</think(?:ing)?>\s*", re.IGNORECASE)),
}
_OPENING = re.compile("|".join(map(re.escape, sorted(_CLOSING, key=len, reverse=True))), re.IGNORECASE)
_LEFT_OPEN = re.compile(
    r"(</think>|\[/THINK\]|</thinking>|</thought>|</seed:think>|◁/think▷|</longcat_think>|<\|think:end\|>)"
)
"""Closing marks of models whose chat template opens the thoughts."""
_WORDS = ("<thinking>", "<thought>", "<reasoning>")
"""Openings that may also be an element that is the whole answer."""
_BEFORE = re.compile(r"(?:\A|\n) {0,3}\Z|(?<!\d)[.!?…][\"')\]]?[ \t]*\Z")
"""Text before a mark that closes thoughts: the beginning of a line, or the end of a sentence."""
_MOST_MARKS, _SEEN_BEFORE = 20, 80
"""Closing marks that are tried, and characters read before each."""
_MARK = re.compile(r"\s*(<[|/]?[\w:|-]{2,30}\|?>|\[[A-Z_ ]{4,30}\]|◁\w{2,20}▷|【\w{1,20}】|<\w+ type=\"\w+\")")


@lru_cache(maxsize=1024)
def read_ending(said: str) -> str:
    """Our finish reason for a provider's; an unknown one unchanged, unless it mentions a limit or a filter."""
    plain = _plain(said)
    if plain in _OURS:
        return _OURS[plain]
    return CUT_OFF if _OF_LIMIT.search(plain) else REFUSED if _OF_FILTER.search(plain) else said


def words_of(ending: str) -> tuple[str, ...]:
    """All spellings of one of our finish reasons in stored answers; older stores kept the providers' own."""
    return (ending, *(spelt for word in _FINISH_REASONS.get(ending, ()) for spelt in (word, word.upper())))


@lru_cache(maxsize=1024)
def is_known_ending(said: str) -> bool:
    """Whether a finish reason is known, or empty."""
    return not said or _plain(said) in _OURS


def find_block(body: object) -> str:
    """The provider's reason for blocking a prompt or an answer, from anywhere in a body; empty if there is none."""
    return next(_blocks(body), "")


def _blocks(body: object) -> Iterator[str]:
    for name, value in body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ():
        field = _plain(str(name))
        if isinstance(value, str):
            is_block = field in _BLOCK_FIELDS and _plain(value) not in ("", "none", "null")
            yield from [value] if is_block or (field in _ENDING_FIELDS and read_ending(value) == REFUSED) else []
        elif isinstance(value, dict) and value.get("filtered") is True:
            yield str(name)
        else:
            yield from _blocks(value)


def read_error_words(status: int, codes: frozenset[str], text: str) -> FailureKind:
    """The kind of an error by its status, codes and message, all in lower case."""
    fits_not = bool(_DOES_NOT_FIT.search(text)) or (status < 500 and any(each in text for each in _ABOUT_LENGTH))
    may_be_refused = status in {400, 422, 451} or (status == 403 and bool(_OF_PROMPT.search(text)))
    if codes & _REFUSED_CODES or (
        may_be_refused
        and not fits_not
        and not any(each in text for each in _OF_ACCOUNT)
        and any(phrase in text for phrase in _REFUSED_PHRASES)
    ):
        return "refused"
    if _USED_UP_PHRASE in text:
        return "used_up"
    wrong_key = status in {400, 412} and text.replace("%20", " ").startswith(_WRONG_KEY_BEGINNINGS + _UNPAID_BEGINNINGS)
    if wrong_key or codes & _UNPAID_CODES or status in {401, 402, 403}:
        return "unauthorized"
    # 404 and 405 mean a wrong address or model, 407 a proxy that wants a password: not the row's fault.
    if codes & _ENDPOINT_CODES or status in {404, 405, 407} or (status == 400 and _UNLOADED.search(text)):
        return "connection"
    is_rate = any(each in text for each in _PER_MINUTE)
    if (status == 429 and (is_rate or not fits_not)) or (status == 413 and is_rate):
        asked = _NEVER_FITS.search(text)
        limit, requested = (int(each.replace(",", "") or 0) for each in asked.groups()) if asked else (0, 0)
        # It never fits, however long one waits; a limit of calls has no number that large.
        return "too_long" if requested > limit > 0 else "rate_limited"
    if status == 413 or codes & _TOO_LONG_CODES or fits_not:
        return "too_long"
    # From a server or gateway that waited too long for the model: it may be charged.
    if status in CUT_OFF_STATUSES:
        return "timeout"
    # Of others, such as 424 or 498 (out of capacity), the next attempt may be answered.
    return "bad_request" if status in {400, 413, 415, 422, 431, 451} and not codes & _ILL_FORMED_CODES else "server"


def refuses_everybody(status: int, codes: frozenset[str], text: str) -> bool:
    """Whether an error says that the key or the model is wrong for all requests; others may concern one row."""
    return status in {401, 402} or bool(codes & (_MODEL_CODES | _UNPAID_CODES)) or (status == 404 and "model" in text)


def unsupported_field(status: int, codes: frozenset[str], parameter: str, text: str) -> str:
    """The field of every request that the endpoint refuses; empty if the error is about something else.

    OpenAI names it as ``parameter``; others quote it, or several of them, only in the message.
    """
    said = text.lower()
    if status not in {400, 403, 422} or _DOES_NOT_FIT.search(said) or any(each in said for each in _ABOUT_LENGTH):
        return ""
    if parameter and not codes.isdisjoint(_UNSUPPORTED_CODES):
        return parameter
    if not any(phrase in said for phrase in _UNSUPPORTED_PHRASES):
        return ""
    return next((name for name in _PARAMETERS if re.search(rf"\b{name}\b", text)), "")


def _plain(word: str) -> str:
    """A word in lower case with `_` between its parts, without the enumeration's name that some put before it."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word)
    return re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_").removeprefix("finish_reason_")


def thoughts_of(text: str, answer: str) -> str:
    """The thoughts of ``text``, whose ``answer`` `strip_thoughts` gives, without their marks."""
    marked = text[: max(0, text.rfind(answer))].strip()
    for opening, closing in (*_PAIRS, *_WRAPPERS):
        marked = marked.removesuffix(opening).removesuffix(closing).strip()
    opened = _OPENING.match(marked)
    return (marked[opened.end() :] if opened else marked).strip()


def as_kept(text: str) -> str:
    """An answer of a file, with thoughts in whatever marks, as one of a model that keeps them is stored."""
    return thoughts.join(thoughts_of(text, answer := strip_thoughts(text)), answer)


def strip_thoughts(text: str) -> str:
    """``text`` without the thoughts before the answer; empty if they are never closed."""
    start = end = len(text) - len(text.lstrip())
    while opening := _OPENING.match(text, end):
        closing = _CLOSING[opening[0].lower()].search(text, opening.end())
        if closing is None and opening[0][0].isalpha():
            break  # words, not a mark
        last = closing.start() if closing else len(text)
        is_named_again = text.find(opening[0], opening.end(), last) >= 0 and text.find("\n", opening.end(), last) < 0
        if is_named_again or text[opening.end() : last].strip() in ("and", "or", "to", "&", ",", "/", "…", "..."):
            break  # a sentence about the mark
        end = closing.end() if closing else len(text)
    if end > start:
        is_element = end == len(text) and text[start:].lower().startswith(_WORDS) and text.rstrip().endswith(">")
        return text if is_element else _unwrapped(text[end:])
    return _after_left_open(text)


def _after_left_open(text: str) -> str:
    """``text`` after thoughts that the prompt opened; all of it if there are none."""
    fences = seen = 0
    for mark in islice(_LEFT_OPEN.finditer(text), _MOST_MARKS):
        fences, seen = fences + text.count("```", seen, mark.start()), mark.start()
        opened = text.find(mark[1].replace("/", "", 1).replace("end", "start"), 0, mark.start()) >= 0
        before, follows = text[max(0, mark.start() - _SEEN_BEFORE) : mark.start()], text[mark.end() : mark.end() + 1]
        is_alone = bool(_BEFORE.search(before)) or (follows in ("", "\n") and before[-1:].isalnum())
        if not opened and is_alone and fences % 2 == 0:
            return _unwrapped(text[mark.end() :].lstrip())
    return text


def unknown_mark(text: str) -> str:
    """An unknown mark at the beginning of ``text``; empty if there is none."""
    found = _MARK.match(text)
    return found[1] if found and not _OPENING.match(text.lstrip()) else ""


def _unwrapped(answer: str) -> str:
    for opening, closing in _WRAPPERS:
        if answer.startswith(opening) and answer.rstrip().endswith(closing) and answer.count(closing) == 1:
            return answer.rstrip()[len(opening) : -len(closing)].strip()
    return answer
