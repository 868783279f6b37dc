"""Answers token by token: what is asked of vLLM, what is read of its replies and kept in their place."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tapir_core.calls import Answer, Endpoint, Failure, Message, Request, Scored, Tokens
from tapir_core.calls.wire import read_completion, read_tokens, request_body
from tapir_core.config import CallsConfig, Sampling
from tests.doubles.provider import FakeProvider, RecordedCall, Status
from tests.tapir_core.calls.engine_helpers import never, open_engine

ENDPOINT = Endpoint("http://127.0.0.1:1/v1", 4)
DRAWN = Request(
    "rollout", (Message("user", "Hi"),), "m", "i", Sampling(temperature=1.0, max_tokens=8), 3, with_tokens=True
)
SCORED = Request("score", (), "m", "i", Sampling(max_tokens=1), scored=Scored((1, 2), (5, 6), 2))


def drawn_body(**changes: Any) -> dict[str, Any]:
    choice = {
        "message": {"role": "assistant", "content": "ab"},
        "finish_reason": "stop",
        "token_ids": [5, 6],
        "logprobs": {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]},
        **changes,
    }
    usage = {"prompt_tokens": 2, "completion_tokens": 2}
    return {"choices": [choice], "prompt_token_ids": [1, 2], "usage": usage}


def place(*words: tuple[int, float, int]) -> dict[str, Any]:
    return {str(token): {"logprob": said, "rank": rank, "decoded_token": "x"} for token, said, rank in words}


def scored_body(**changes: Any) -> dict[str, Any]:
    said = [
        None,
        place((2, -0.1, 1)),
        place((5, -4.0, 9), (7, -0.2, 1), (8, -2.0, 2)),
        place((6, -0.3, 1), (9, -3.0, 2)),
    ]
    choice = {"text": "z", "finish_reason": "length", "prompt_logprobs": said, **changes}
    return {"choices": [choice], "usage": {"prompt_tokens": 4, "completion_tokens": 1}}


def test_what_is_asked() -> None:
    body = request_body(DRAWN, ENDPOINT)
    assert (body["logprobs"], body["return_token_ids"], body["temperature"], body["seed"]) == (True, True, 1.0, 3)
    assert request_body(SCORED, ENDPOINT) == {
        "model": "m",
        "temperature": 0,
        "prompt": [1, 2, 5, 6],
        "prompt_logprobs": 2,
        "max_tokens": 1,
    }


def test_a_drawn_answer_is_kept_as_its_tokens() -> None:
    reply = read_completion(json.dumps(drawn_body()), ENDPOINT, DRAWN)
    assert isinstance(reply.outcome, Answer)
    assert reply.outcome.text == "ab"
    assert reply.outcome.tokens == Tokens((1, 2), (5, 6), (-0.5, -1.5)) == read_tokens(reply.raw)


def test_scores_are_of_the_answer_s_tokens_and_of_the_likeliest_in_their_order() -> None:
    reply = read_completion(json.dumps(scored_body()), ENDPOINT, SCORED)
    assert isinstance(reply.outcome, Answer)
    top = (((7, -0.2), (8, -2.0)), ((6, -0.3), (9, -3.0)))
    assert reply.outcome.tokens == Tokens((1, 2), (5, 6), (-4.0, -0.3), top) == read_tokens(reply.raw)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (DRAWN, drawn_body(token_ids=None)),
        (DRAWN, drawn_body(token_ids=[5])),
        (DRAWN, drawn_body(logprobs=None)),
        (SCORED, scored_body(prompt_logprobs=None)),
        (SCORED, scored_body(prompt_logprobs=[None, place((2, -0.1, 1))])),
        (SCORED, scored_body(prompt_logprobs=[None, *[place((3, -0.1, 1))] * 3])),
    ],
)
def test_a_reply_without_its_tokens_is_no_answer(request_: Request, body: dict[str, Any]) -> None:
    outcome = read_completion(json.dumps(body), ENDPOINT, request_).outcome
    assert isinstance(outcome, Failure)
    assert "no token ids with log-probabilities, as vLLM gives them" in outcome.message


def test_other_tokens_are_other_requests_and_plain_ones_keep_their_keys() -> None:
    plain = Request("answer", (Message("user", "Hi"),), "m", "i", Sampling())
    assert replace(plain, with_tokens=True).key != plain.key
    keys = {
        Request("score", (), "m", "i", Sampling(max_tokens=1), scored=scored).key
        for scored in (
            Scored((1, 2), (5, 6)),
            Scored((1,), (2, 5, 6)),
            Scored((1, 2), (5, 7)),
            Scored((1, 2), (5, 6), 2),
        )
    }
    assert len(keys) == 4


def test_what_was_scored_is_asked_once_and_comes_whole_from_the_store(store_url: str, quick: CallsConfig) -> None:
    asked = dict[str, Any]()

    def reply(call: RecordedCall) -> Status:
        asked.update(call.body)
        return Status(200, scored_body())

    with FakeProvider(reply) as provider:
        for source in (provider.endpoint, never):
            with open_engine(store_url, quick) as engine:
                [outcome] = engine.ask([SCORED], source)
            assert isinstance(outcome, Answer)
            assert outcome.stored is (source is never)
            assert outcome.tokens is not None
            assert outcome.tokens.log_probs == (-4.0, -0.3)
    assert asked["prompt"] == [1, 2, 5, 6]
