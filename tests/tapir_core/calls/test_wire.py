import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core import tools
from tapir_core.calls import Answer, Endpoint, Failure
from tapir_core.calls.types import Message
from tapir_core.calls.wire import Reply, read_completion, read_error, request_body
from tapir_core.config import Sampling
from tests.doubles.provider import make_request

PRICED = Endpoint("http://h/v1", 1, usd_per_million_prompt_tokens=2.0, usd_per_million_completion_tokens=8.0)


def completion(content: Any = "fine", *, finish_reason: Any = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}}
    return {
        "choices": [{**choice, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 500},
    }


def read(body: Any) -> Reply:
    raw = body if isinstance(body, str) else json.dumps(body)
    return read_completion(raw, PRICED)


def test_a_completion_becomes_an_answer_with_tokens_and_price():
    reply = read(completion("fine"))
    assert reply.outcome == Answer("fine", "stop", 1000, 500, usd=0.006)
    assert json.loads(reply.raw or "") == completion("fine")


@pytest.mark.parametrize("before", ["\n\n   ", "\ufeff", ": PROCESSING\n\n: PROCESSING\n\n"])
def test_what_keeps_a_connection_open_before_a_body_is_left_aside(before: str):
    assert read(before + json.dumps(completion("fine"))).outcome == Answer("fine", "stop", 1000, 500, usd=0.006)


def test_an_answer_cut_off_keeps_its_finish_reason():
    assert read(completion("half a sen", finish_reason="length")).outcome.finish_reason == "length"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (completion(None, refusal="I cannot help with that."), "refused"),
        (completion("half", finish_reason="content_filter"), "refused"),
        ({"choices": []}, "server"),
        ({"choices": [{"finish_reason": "stop"}]}, "server"),
        ({"choices": "none"}, "server"),
        (completion([{"type": "image"}]), "server"),
        (completion("half", finish_reason="error"), "server"),
        (completion("half", finish_reason="abort"), "server"),
        (completion("half", finish_reason="insufficient_system_resource"), "server"),
        ({}, "server"),
        ("null", "server"),
        ("[]", "server"),
        ('{"choices": [{"message": {"content": "cut of', "server"),
        ("\n<html>Sign in</html>", "connection"),
        ("", "server"),
        ({"error": {"code": 429, "message": "slow down"}}, "rate_limited"),
        ({"error": {"message": "upstream broke"}}, "server"),
        ({"error": "upstream broke"}, "server"),
    ],
)
def test_a_body_without_a_usable_reply_is_a_typed_failure(body: Any, kind: str):
    outcome = read(body).outcome
    assert isinstance(outcome, Failure)
    assert outcome.kind == kind


def test_a_refusal_keeps_what_it_cost():
    assert read(completion(None, refusal="No.")).spent.usd == pytest.approx(0.006)


def test_a_reply_that_spent_its_tokens_on_reasoning_is_an_empty_answer():
    assert read(completion(None, finish_reason="length")).outcome == Answer("", "length", 1000, 500, usd=0.006)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "7"}], "7"),
        ([{"type": "text", "text": "It is "}, {"type": "text", "text": "7."}], "It is 7."),
        ([{"type": "thinking", "thinking": []}], ""),
        ([{"type": "output_text", "text": "7"}], "7"),
    ],
)
def test_of_a_reply_in_parts_the_text_is_the_answer(parts: list[dict[str, Any]], text: str):
    assert read(completion(parts)).outcome == Answer(text, "stop", 1000, 500, usd=0.006)


def test_thoughts_that_come_as_parts_are_thoughts():
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}]}
    assert read(completion([thought], finish_reason="length")).outcome.kind == "used_up"
    assert read(completion([thought])).outcome.kind == "no_answer"
    told = json.dumps(completion([thought, {"type": "text", "text": "42"}]))
    kept = read_completion(told, replace(PRICED, thinking="keep")).outcome
    assert kept.text == "<think>\nLet me see.\n</think>\n\n42"


@pytest.mark.parametrize(
    ("usage", "more", "tokens"),
    [
        ({"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 132}, {}, (20, 112)),
        ({"prompt_tokens": 20, "completion_tokens": 112}, {"completion": {"reasoning_tokens": 100}}, (20, 112)),
        ({"prompt_tokens": 20, "completion_tokens": 12}, {"completion": {"reasoning_tokens": 100}}, (20, 112)),
        ({"prompt_tokens": 20, "completion_tokens": 0, "total_tokens": 81}, {}, (20, 61)),
        ({"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 5}, {}, (20, 12)),
        ({"prompt_tokens": 1000, "completion_tokens": 12}, {"prompt": {"cached_tokens": 990}}, (1000, 12)),
        (
            {"prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 1022},
            {"prompt": {"cached_tokens": 1000}},
            (1010, 12),
        ),
    ],
)
def test_thoughts_and_cached_tokens_are_counted_once_wherever_they_stand(usage: Any, more: Any, tokens: Any):
    details = {f"{of}_tokens_details": counts for of, counts in more.items()}
    outcome = read(completion("fine") | {"usage": usage | details}).outcome
    assert isinstance(outcome, Answer)
    assert (outcome.prompt_tokens, outcome.completion_tokens) == tokens


def test_missing_or_odd_usage_counts_as_nothing():
    body = completion("fine") | {"usage": {"prompt_tokens": "many", "completion_tokens": None}}
    assert read(body).outcome == Answer("fine", "stop", 0, 0)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "messages: wrong"}}, "bad_request"),
        (422, {"detail": [{"msg": "Field required"}]}, "bad_request"),
        (400, {"error": {"message": "too big", "code": "context_length_exceeded"}}, "too_long"),
        (400, {"message": "This model's maximum context length is 2048 tokens."}, "too_long"),
        (413, "Payload Too Large", "too_long"),
        (400, {"error": {"message": "filtered", "code": "content_filter"}}, "refused"),
        (400, {"error": {"message": "use max_completion_tokens", "code": "unsupported_parameter"}}, "connection"),
        (401, {"error": {"message": "no"}}, "unauthorized"),
        (400, [{"error": {"code": 400, "message": "API key not valid. Please pass another."}}], "unauthorized"),
        (400, {"code": "an invalid argument", "error": "Incorrect%20API%20key%20provided:%20a***b"}, "unauthorized"),
        (400, {"error": {"message": "bad role in: 'write a text on an invalid api key'"}}, "bad_request"),
        (402, {"error": {"message": "Insufficient Balance"}}, "unauthorized"),
        (400, {"error": {"type": "e", "message": "Your credit balance is too low to access the API."}}, "unauthorized"),
        (400, {"error": {"code": "Arrearage", "message": "Access denied."}}, "unauthorized"),
        (400, {"error": {"message": "bad role in: 'your credit balance is too low'"}}, "bad_request"),
        (403, {}, "unauthorized"),
        (404, {"error": {"message": "The model `x` does not exist.", "code": "model_not_found"}}, "connection"),
        (404, "404 page not found", "connection"),
        (408, {}, "timeout"),
        (409, {}, "server"),
        (429, {"error": {"message": "slow down"}}, "rate_limited"),
        (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}, "unauthorized"),
        (500, {"error": {"message": "the context window broke"}}, "server"),
        (503, "", "server"),
        (529, None, "server"),
        (498, {"error": {"message": "Flex tier capacity exceeded", "code": "capacity_exceeded"}}, "server"),
        (424, {"error": {"message": "a dependency failed"}}, "server"),
        (415, {}, "bad_request"),
        (301, "", "server"),
    ],
)
def test_an_error_status_becomes_a_typed_failure(status: int, body: Any, kind: str):
    outcome = read_error(status, body, raw="").outcome
    assert isinstance(outcome, Failure)
    assert outcome.kind == kind
    assert str(status) in outcome.message


def test_what_a_wrong_address_model_or_key_refuses_is_the_endpoints_fault_and_never_stored():
    for status in (401, 403, 404):
        reply = read_error(status, {}, raw="")
        assert reply.endpoint_at_fault
        assert isinstance(reply.outcome, Failure)
        assert reply.outcome.retryable


def test_a_providers_long_error_text_is_shortened():
    assert len(read_error(500, {"error": {"message": "x" * 10_000}}, raw="").outcome.message) < 600


def test_greedy_first_samples_send_no_seed_and_all_others_their_sample_index():
    warm = Sampling(temperature=1.0)
    assert "seed" not in request_body(make_request(), PRICED)
    assert request_body(make_request(sampling=warm), PRICED)["seed"] == 0
    assert request_body(make_request(sampling=warm, sample_index=3), PRICED)["seed"] == 3
    assert request_body(make_request(sample_index=3), PRICED)["seed"] == 3


def test_what_is_left_to_the_provider_is_not_sent_and_a_schema_is():
    plain = request_body(make_request(sampling=Sampling(temperature="provider", top_p="provider")), PRICED)
    assert not {"temperature", "top_p", "response_format"} & plain.keys()
    schema = '{"type": "object"}'
    asked = request_body(make_request(schema=schema), PRICED)["response_format"]
    assert asked["json_schema"] == {"name": "reply", "strict": True, "schema": {"type": "object"}}
    assert make_request(schema=schema).key != make_request().key


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"error": {"message": "no", "param": "temperature", "code": "unsupported_value"}}, "temperature"),
        ({"error": {"message": "`temperature` and `top_p` cannot both be specified for this model."}}, "top_p"),
        (
            [{"error": {"code": 400, "message": 'Invalid JSON payload. Unknown name "seed": Cannot find field.'}}],
            "seed",
        ),
    ],
    ids=["named", "of two", "in a list"],
)
def test_a_field_that_every_request_has_and_the_endpoint_refuses_is_named(body: Any, parameter: str):
    reply = read_error(400, body, raw="")
    assert isinstance(reply.outcome, Failure)
    assert (reply.outcome.kind, reply.outcome.parameter, reply.endpoint_at_fault) == ("unsupported", parameter, True)


def test_who_refuses_log_probabilities_refuses_only_those_requests():
    reply = read_error(403, {"error": {"message": "You are not allowed to request logprobs from this model"}}, raw="")
    assert (reply.outcome.kind, reply.endpoint_at_fault) == ("bad_request", False)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\nLet me see.\n</think>\n\n42", "42"),
        ("Let me see.</think> 42", "42"),
        ("<think>without an end", ""),
        ("42", "42"),
        ("<think> is a tag, <think> too, and </think> closes", "<think> is a tag, <think> too, and </think> closes"),
    ],
)
def test_thoughts_before_an_answer_are_no_part_of_it(text: str, answer: str):
    assert read(completion(text)).outcome.text == answer


def test_a_label_is_read_without_the_thoughts_that_answers_keep():
    told, keeps = json.dumps(completion("<think>Task type: Code?</think>\n\nMath")), replace(PRICED, thinking="keep")
    texts = [read_completion(told, keeps, replace(make_request("?"), role=role)).outcome.text for role in ROLES]
    assert texts == ["Math", "<think>\nTask type: Code?\n</think>\n\nMath"]


ROLES = ("label", "teach")


def test_a_limit_that_thinking_used_up_has_its_own_remedy():
    hidden = completion("", finish_reason="length", reasoning="Let me see.")
    assert read(hidden).outcome.kind == "used_up"
    said = "Could not finish the message because max_tokens or model output limit was reached."
    refused = read_error(400, {"error": {"message": said}}, raw="").outcome
    assert (refused.kind, "Raise max_tokens" in refused.message) == ("used_up", True)


@given(st.text(st.characters(codec=None)))
def test_any_text_can_be_sent_stored_and_read_again(text: str):
    sent = request_body(make_request(text), PRICED)["messages"][0]["content"]
    # Thoughts are taken out elsewhere: a text may be one of their marks.
    received = read_completion(json.dumps(completion(text)), replace(PRICED, thinking="keep")).outcome
    assert isinstance(received, Answer)
    assert sent == received.text
    assert "\x00" not in received.text
    received.text.encode("utf-8")


WEIGHED = {
    "content": [
        {
            "token": "m",
            "logprob": -0.1,
            "top_logprobs": [{"token": "m", "logprob": -0.1}, {"token": "M", "logprob": -3}],
        }
    ]
}


def test_log_probabilities_are_asked_for_only_where_they_are_wanted():
    assert "logprobs" not in request_body(make_request(), PRICED)
    body = request_body(make_request(top_logprobs=5), PRICED)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 5)


def test_a_request_without_log_probabilities_keeps_the_key_that_stores_have():
    key = "c2fe8161defb43bcd323bc87caf9bf1667eb8957ce63563fc6138676e7ed391e"
    assert make_request("a fixed prompt").key == key
    assert make_request("a fixed prompt", top_logprobs=5).key != key


@pytest.mark.parametrize(
    ("logprobs", "found"),
    [
        (WEIGHED, (("m", -0.1), ("M", -3.0))),
        (None, ()),
        ({"content": []}, ()),
        ({"content": [{"token": "m", "top_logprobs": None}]}, ()),
        (
            {
                "content": [
                    {"top_logprobs": [{"token": 3, "logprob": -1}, {"token": "m"}, 7, {"token": "M", "logprob": -2}]}
                ]
            },
            (("M", -2.0),),
        ),
        ("none", ()),
    ],
)
def test_the_first_tokens_alternatives_are_read_as_far_as_they_are_there(logprobs: Any, found: Any):
    body = completion("m")
    body["choices"][0]["logprobs"] = logprobs
    outcome = read(body).outcome
    assert isinstance(outcome, Answer)
    assert outcome.logprobs == found


CALLS = [{"id": "call_9", "type": "function", "function": {"name": "weigh", "arguments": '{"animal": "tapir"}'}}]


def test_tools_are_sent_as_tools_and_a_call_is_an_answer():
    defined = tools.definitions([{"name": "weigh", "parameters": {"type": "object"}}])
    plain = make_request("How heavy?")
    asked = replace(plain, messages=(Message("tools", defined), *plain.messages))
    body = request_body(asked, PRICED)
    assert [each["function"]["name"] for each in body["tools"]] == ["weigh"]
    assert body["messages"] == request_body(plain, PRICED)["messages"]
    assert "tools" not in request_body(plain, PRICED)
    assert asked.key != plain.key
    outcome = read(completion(None, finish_reason="tool_calls", tool_calls=CALLS)).outcome
    assert isinstance(outcome, Answer)
    assert outcome.finish_reason == "tool_calls"
    again = replace(asked, messages=(*asked.messages, Message("assistant", outcome.text)))
    [sent] = request_body(again, PRICED)["messages"][-1]["tool_calls"]
    assert sent["function"] == CALLS[0]["function"]


def test_a_call_of_the_old_kind_and_words_beside_it_are_an_answer():
    outcome = read(completion("I weigh it.", function_call=CALLS[0]["function"])).outcome
    assert isinstance(outcome, Answer)
    assert tools.calls_in(outcome.text) == ("I weigh it.", [tools.Call("weigh", {"animal": "tapir"})])


def test_without_tools_a_call_is_no_answer_and_one_of_no_function_neither():
    untooled = read_completion(json.dumps(completion("Hm.", tool_calls=CALLS)), PRICED, make_request()).outcome
    assert isinstance(untooled, Answer)
    assert untooled.text == "Hm."
    odd = read(completion("Hm.", tool_calls=[{"type": "custom", "function": None}])).outcome
    assert isinstance(odd, Answer)
    assert odd.text == "Hm."
