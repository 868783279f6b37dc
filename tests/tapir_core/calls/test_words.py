"""What providers say in their own words, and what it comes to here; thoughts are removed, and nothing else."""

import json
from typing import Any

import pytest

from tapir_core.calls import Answer, Endpoint, Failure
from tapir_core.calls.wire import Reply, read_completion, read_error
from tapir_core.calls.words import find_block, is_known_ending, read_ending, strip_thoughts, unknown_mark, words_of
from tapir_core.config import Sampling
from tests.doubles.provider import make_request

FREE = Endpoint("http://h/v1", 1)
USAGE = {"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32}


def read(choice: dict[str, Any], *, usage: dict[str, Any] | None = None, role: str = "teach", **body: Any) -> Reply:
    whole = {
        "choices": [{"message": {"role": "assistant", "content": "Half an ans"}, **choice}],
        "usage": usage or USAGE,
    }
    request = make_request(role=role, sampling=Sampling(max_tokens=64))
    return read_completion(json.dumps(whole | body), FREE, request)


def ending(choice: dict[str, Any], **more: Any) -> str:
    """The finish reason of an answer, and the kind of a failure."""
    outcome = read(choice, **more).outcome
    return outcome.finish_reason if isinstance(outcome, Answer) else outcome.kind


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        *((word, "length") for word in ("length", "max_tokens", "MAX_TOKENS", "model_length", "maxTokens", "limit")),
        *((word, "length") for word in ("model_context_window_exceeded", "FinishReason.MAX_TOKENS", "repetition")),
        *((word, "length") for word in ("REASON_MAX_LEN", "ERROR_LIMIT", "pause_turn", "contextLengthReached")),
        *((word, "refused") for word in ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "content-filter", "refusal")),
        *((word, "refused") for word in ("guardrail_intervened", "sensitive", "ERROR_TOXIC", "FINISH_REASON_SPII")),
        *((word, "server") for word in ("error", "abort", "network_error", "unload", "MALFORMED_FUNCTION_CALL")),
        *(
            (word, "stop")
            for word in ("stop", "STOP", "end_turn", "eos_token", "COMPLETE", "stop_sequence", "eosFound")
        ),
        ("ALTERNATIVE_STATUS_TRUNCATED_FINAL", "length"),
        ("maximum_tokens", "length"),
        ("ALTERNATIVE_STATUS_CONTENT_FILTER", "refused"),
        ("tool_use", "tool_calls"),
        ("", ""),
        ("a word of tomorrow", "a word of tomorrow"),
    ],
)
def test_every_providers_word_for_how_a_reply_ended_becomes_ours(said: str, ours: str):
    assert ending({"finish_reason": said}) == ours
    assert is_known_ending(read_ending(said)) == (said != "a word of tomorrow")


@pytest.mark.parametrize(
    ("choice", "ours"),
    [
        ({"finish_reason": "stop", "native_finish_reason": "MAX_TOKENS"}, "length"),
        ({"finish_reason": "stop", "provider_specific_fields": {"native_finish_reason": "SAFETY"}}, "refused"),
        ({"finish_reason": "stop", "native_finish_reason": "some word of its own"}, "stop"),
        ({"finish_reason": None, "done_reason": "length"}, "length"),
        ({"finish_reason": None, "stop_reason": "max_tokens"}, "length"),
        ({"finish_reason": {"type": "length", "length": 64}}, "length"),
    ],
)
def test_a_gateways_stop_hides_no_word_of_its_provider(choice: dict[str, Any], ours: str):
    assert ending(choice) == ours


@pytest.mark.parametrize(
    ("tokens", "role", "ours"),
    [
        (63, "teach", "stop"),
        (64, "teach", "length"),
        ("64", "refine", "length"),
        (64.0, "teach", "length"),
        (64, "judge", "stop"),
    ],
)
def test_an_answer_to_be_trained_on_that_took_all_its_tokens_is_cut_off(tokens: Any, role: str, ours: str):
    usage = {"prompt_tokens": 20, "completion_tokens": tokens}
    assert ending({"finish_reason": "stop"}, usage=usage, role=role) == ours


def test_thoughts_and_a_limit_that_the_endpoint_sets_itself_cut_nothing_off():
    details = {"completion_tokens_details": {"reasoning_tokens": 1980}}
    assert (
        ending({"finish_reason": "stop"}, usage={"prompt_tokens": 20, "completion_tokens": 2000, **details}) == "stop"
    )
    roomy = Endpoint("http://h/v1", 1, body_fields={"max_tokens": 4096})
    body = {"choices": [{"message": {"content": "Whole."}, "finish_reason": "stop"}]}
    for tokens, ours in ((200, "stop"), (4096, "length")):
        raw = json.dumps(body | {"usage": {"prompt_tokens": 20, "completion_tokens": tokens}})
        outcome = read_completion(raw, roomy, make_request(sampling=Sampling(max_tokens=64))).outcome
        assert isinstance(outcome, Answer)
        assert outcome.finish_reason == ours


@pytest.mark.parametrize("tokens", [None, "many", -7, float("nan"), 10**30, True, [], {}])
def test_a_count_that_is_none_costs_nothing_and_cuts_nothing_off(tokens: Any):
    reply = read({"finish_reason": "stop"}, usage={"prompt_tokens": tokens, "completion_tokens": tokens})
    assert reply.outcome == Answer("Half an ans", "stop", 0, 0)
    assert reply.cost_unknown


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"choices": [], "prompt_feedback": {"block_reason": "PROHIBITED_CONTENT"}}, "refused"),
        ({"choices": None, "promptFeedback": {"blockReason": "SAFETY"}}, "refused"),
        ({"choices": None, "promptFeedback": {"blockReason": "BLOCKLIST", "safetyRatings": []}}, "refused"),
        ({"choices": [{"finish_reason": "SAFETY"}]}, "refused"),
        ({"choices": [{"message": None, "finish_reason": "content_filter"}]}, "refused"),
        (
            {"choices": [], "prompt_filter_results": [{"content_filter_results": {"hate": {"filtered": True}}}]},
            "refused",
        ),
        ({"choices": None, "base_resp": {"status_code": 1027, "status_msg": "output new_sensitive"}}, "refused"),
        ({"choices": [], "amazon-bedrock-guardrailAction": "INTERVENED"}, "refused"),
        ({"choices": [], "prompt_feedback": {"block_reason": None}}, "server"),
        ({"choices": [], "amazon-bedrock-guardrailAction": "NONE"}, "server"),
        ({"choices": [{"message": None, "finish_reason": "stop"}]}, "server"),
        ({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}, "server"),
        ({"choices": [{"error": {"code": 429, "message": "slow"}, "message": {"content": "Ha"}}]}, "rate_limited"),
        ({"error": {"code": "502", "message": "Provider returned error"}}, "server"),
        (
            {"error": {"code": 400, "message": "no", "metadata": {"raw": "prompt is too long: 9 tokens > 8"}}},
            "too_long",
        ),
    ],
)
def test_a_body_without_an_answer_says_why_in_many_places(body: dict[str, Any], kind: str):
    outcome = read_completion(json.dumps({"usage": USAGE} | body), FREE).outcome
    assert isinstance(outcome, Failure)
    assert outcome.kind == kind


def test_what_has_no_answer_and_no_reason_shows_its_body():
    outcome = read_completion('{"choices": [], "note": "closed on Sundays"}', FREE).outcome
    assert isinstance(outcome, Failure)
    assert "closed on Sundays" in outcome.message


def test_a_guardrails_own_text_is_no_answer():
    assert ending({"finish_reason": "stop"}, **{"amazon-bedrock-guardrailAction": "INTERVENED"}) == "refused"


def test_an_instruction_that_speaks_of_blocks_blocks_nothing():
    assert find_block({"choices": [{"message": {"content": '{"block_reason": "SAFETY"}'}}]}) == ""


@pytest.mark.parametrize(
    ("message", "finish_reason", "usage", "kind"),
    [
        ({"content": None, "reasoning_content": "Hm."}, "stop", USAGE, "no_answer"),
        ({"content": "", "reasoning": "Hm."}, "stop", USAGE, "no_answer"),
        ({"content": "", "reasoning_details": [{"text": "Hm."}]}, "length", USAGE, "used_up"),
        ({"content": "<think>Hm"}, "max_tokens", USAGE, "used_up"),
        ({"content": ""}, "length", {"prompt_tokens": 9000, "completion_tokens": 0}, "too_long"),
        ({"role": "assistant"}, "MAX_TOKENS", {"prompt_tokens": 9000, "completion_tokens": 0}, "too_long"),
    ],
)
def test_an_empty_reply_says_what_took_its_room(message: Any, finish_reason: str, usage: Any, kind: str):
    outcome = read({"message": message, "finish_reason": finish_reason}, usage=usage).outcome
    assert isinstance(outcome, Failure)
    assert outcome.kind == kind


TOO_LONG = [
    "This model's maximum context length is 4096 tokens. However, your request has 5301 input tokens.",
    "The decoder prompt (length 5301) is longer than the maximum model length of 4096.",
    "The input (5301 tokens) is longer than the model's context length (4096 tokens).",
    "Input length (5301 tokens) exceeds the maximum allowed length (4096 tokens)",
    "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5301 `inputs` tokens and 64 `max_new_tokens`",
    "`inputs` must have less than 4096 tokens. Given: 5301",
    "the request exceeds the available context size, try increasing it",
    "The number of tokens to keep from the initial prompt is greater than the context length",
    "prompt is too long: 205301 tokens > 200000 maximum",
    "The input token count (5301) exceeds the maximum number of tokens allowed (4096).",
    "Input is too long for requested model.",
    "Prompt contains 5301 tokens, too large for model with 4096 maximum context length",
    "This model's maximum prompt length is 4096 but the request contains 5301 tokens.",
    "Range of input length should be [1, 4096]",
    "Prompt length (5301) exceeds maximum input length (4096). Set log level to info",
    "Input tokens exceed the configured limit of 4096 tokens.",
    "input length and `max_tokens` exceed context limit: 5301 + 64 > 4096",
    "the number of input tokens 5301 cannot exceed the total tokens limit 4096 for this model",
    "prompt tokens (5301) exceed model limit (4096)",
    "total tokens 5301 exceeds 4096",
]


@pytest.mark.parametrize("said", TOO_LONG)
@pytest.mark.parametrize("status", [400, 422, 500, 503])
def test_a_prompt_that_does_not_fit_is_its_rows_own_failure_under_any_status(said: str, status: int):
    for body in ({"error": {"message": said}}, {"detail": said}, {"object": "error", "message": said}):
        assert read_error(status, body, raw="").outcome.kind == "too_long"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (
            400,
            {"error": {"code": "DataInspectionFailed", "message": "Output data may contain inappropriate"}},
            "refused",
        ),
        (400, {"error": {"code": "1301", "message": "no"}}, "refused"),
        (
            400,
            {"error": {"code": 400, "message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
            "refused",
        ),
        (400, {"error": {"type": "content_filter", "message": "The request was rejected"}}, "refused"),
        (400, {"error": {"message": "Output blocked by content filtering policy"}}, "refused"),
        (403, {"error": {"code": 403, "message": "no", "metadata": {"reasons": ["violence"]}}}, "refused"),
        (403, {"error": {"message": "requires moderation, and your input was flagged"}}, "refused"),
        (403, {"error": {"message": "Your account was closed: it violated our usage policies"}}, "unauthorized"),
        (401, {"error": {"message": "see our usage policies"}}, "unauthorized"),
        (400, {"error": {"code": "1261", "message": "no"}}, "too_long"),
        (
            413,
            {"error": {"code": "rate_limit_exceeded", "message": "tokens per minute (TPM): Limit 6000, Used 5000"}},
            "rate_limited",
        ),
        (413, {"error": {"message": "on tokens per minute (TPM): Limit 6000, Requested 14,810"}}, "too_long"),
        (429, {"error": {"message": "on tokens per min (TPM): Limit 30,000, Requested 51000"}}, "too_long"),
        (429, {"error": {"message": "Too many tokens, please wait before trying again."}}, "rate_limited"),
        (500, {"error": {"message": "the context window broke"}}, "server"),
        (500, {"error": {"message": "CUDA out of memory"}}, "server"),
        (500, {"error": {"message": "CUDA out of memory. Try decreasing max_model_len"}}, "server"),
        (503, {"error": {"message": "queue length limit exceeded, retry later"}}, "server"),
        (503, {"error": {"message": "Number of waiting requests exceed the configured limit"}}, "server"),
        (503, {"error": {"message": "The safety system is temporarily unavailable"}}, "server"),
        (500, {"error": {"message": "Error while applying content policy: upstream timed out"}}, "server"),
        (504, {"error": {"message": "upstream request timeout"}}, "timeout"),
        (403, {"error": {"message": "Your resource was blocked: it may violate our content policy"}}, "unauthorized"),
        (
            403,
            {"error": {"message": "Your access was disabled because of violations of our usage policies"}},
            "unauthorized",
        ),
        (400, {"error": {"message": "You have reached your specified API usage limits."}}, "unauthorized"),
        (
            400,
            {"error": {"message": "Budget has been exceeded! Current cost: 3", "type": "auth_error"}},
            "unauthorized",
        ),
        (400, {"error": {"message": "gone", "code": "model_decommissioned"}}, "connection"),
        (400, {"error": 'Failed to load model "qwen". Error: insufficient system resources.'}, "connection"),
        (400, {"error": {"message": "No models loaded. Please load a model in the developer page"}}, "connection"),
        (400, {"error": {"message": "Failed to generate JSON", "code": "json_validate_failed"}}, "server"),
        (400, {"error": {"message": "Failed to call a function", "code": "tool_use_failed"}}, "server"),
        (429, {"error": {"message": "Rate limit: 10, requested: 11"}}, "rate_limited"),
        (429, {"error": {"message": "limit 60 per minute, requested 61"}}, "rate_limited"),
        (429, {"error": {"message": "prompt is too long: 205301 tokens > 200000"}}, "too_long"),
    ],
)
def test_codes_and_messages_of_errors_are_told_apart(status: int, body: Any, kind: str):
    assert read_error(status, body, raw="").outcome.kind == kind


def test_words_that_stores_kept_as_providers_said_them_are_read_as_ours():
    assert [read_ending(word) for word in ("max_tokens", "STOP", "stop")] == ["length", "stop", "stop"]


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nHm.\n</think>\n\n42",
        "\n<think>Hm.</think>42",
        "<Thinking>\nHm.\n</Thinking>\n\n42",
        "<think>Hm.</THINK>42",
        "<think>\nHm.\n</thinking>\n42",
        "<thought>Hm.</thought> 42",
        "<reasoning>Hm.</reasoning>\n42",
        "[THINK]Hm.[/THINK]42",
        "<seed:think>Hm.</seed:think>42",
        "◁think▷Hm.◁/think▷42",
        "<|begin_of_thought|>Hm.<|end_of_thought|>\n<|begin_of_solution|>42<|end_of_solution|>",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>42<|END_RESPONSE|>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>",
        "analysisHm.assistantfinal42",
        "<|channel>thought\nHm.<channel|>42",
        "<unused94>thought\nHm.<unused95>42",
        "Here is my thought process: Hm. Here is my response: 42",
        "<think>Hm.</think>\n<answer>\n42\n</answer>",
        "<think>Hm.</think>\n\n<response>\n42\n</response>",
        "<think></think><think>Hm.</think>42",
        "Hm.\n</think>\n\n42",
        "Hm.</think> 42",
        "Hm, 6 times 7.\n[/THINK]42",
    ],
)
def test_thoughts_in_the_marks_of_the_known_families_are_no_part_of_the_answer(text: str):
    assert strip_thoughts(text) == "42"


@pytest.mark.parametrize(
    "text",
    [
        "42",
        "",
        "Put your plan between <think> and </think> tags; then answer.",
        "<think> is a tag, <think> too, and </think> closes",
        "<think> and </think> are tags.",
        "End your thoughts with </think> and go on.",
        "Close it with `</think>` first.",
        "```\n<p>Hm.\n</think>\n```\nis how it ends.",
        "Analysis of the poem: it rhymes.",
        "Here is my thought process: I added both.",
        "I think <thinking> is what cats do.",
        "<answer>42</answer>",
        "<div>thinking</div>",
        "<reason>Missing stock</reason>\n<code>E42</code>",
        "<thought>one</thought>\n<thought>two</thought>",
        "<reasoning>because</reasoning>",
        "Write:\n\n    </think>\n\nand go on.",
        "| mark | meaning |\n| </think> | the end |",
        "1. </think> ends them.",
        "It is **</think>** that ends them.",
    ],
)
def test_what_only_speaks_of_thoughts_stays_as_it_is(text: str):
    assert strip_thoughts(text) == text


@pytest.mark.parametrize("opening", ["<think>", "<thinking>\n", "[THINK]", "<|channel|>analysis<|message|>"])
def test_thoughts_that_are_never_closed_leave_no_answer(opening: str):
    assert strip_thoughts(f"{opening}Hm. Six times seven") == ""


def test_an_answer_in_several_elements_is_not_unwrapped():
    assert (
        strip_thoughts("<think>h</think><answer>A</answer>\n<answer>B</answer>")
        == "<answer>A</answer>\n<answer>B</answer>"
    )


@pytest.mark.parametrize("text", ["so </think> b ", "</think>\n", "It. <think>a</think> ", "<think>a</think> "])
def test_a_reply_of_nothing_but_marks_is_read_soon(text: str):
    assert len(strip_thoughts("Hm " * (text[0] != "<") + text * 20_000)) < 20_000 * len(text) + 10


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_details"])
def test_where_the_server_put_thoughts_apart_nothing_is_taken_away(field: str):
    text = "<think> opens and\n</think>\ncloses thoughts."
    message = {"role": "assistant", "content": text, field: "They ask of tags."}
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    assert read_completion(json.dumps(body), Endpoint("", 1)).outcome.text == text


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("<pondering>\nHm.", "<pondering>"),
        ("<|inner_voice|>Hm.", "<|inner_voice|>"),
        ("[PLAN] Hm.", "[PLAN]"),
        ("◁muse▷", "◁muse▷"),
        ("【思考】Hm.", "【思考】"),
        ("<think>Hm.", ""),
        ("Plain.", ""),
        ("a < b > c", ""),
        ("[1] A note.", ""),
    ],
)
def test_a_mark_in_no_table_is_told(text: str, mark: str):
    assert unknown_mark(text) == mark


@pytest.mark.parametrize("ending", ["stop", "length", "content_filter"])
def test_an_ending_is_found_in_every_spelling_that_is_read_as_it(ending: str) -> None:
    words = words_of(ending)
    assert words[0] == ending
    assert {read_ending(word) for word in words} == {ending}
    assert len(words) > 1
