"""The stand-in as a benchmark's judge, asked with the shipped prompts."""

import math
from typing import Any

import openai
import pytest

from tapir_core.evaluation.fastchat import parse_rating, parse_review, request_kind
from tapir_core.prompts import load_prompt
from tests.doubles.standin import StandinServer
from tests.tapir_core.standin.asks import SUM

RIGHT, WRONG = "Answer: 91", "I would say it is about 12."


def annotation(first: str, second: str, instruction: str = SUM) -> str:
    return load_prompt("alpaca_eval").render(instruction=instruction, output_1=first, output_2=second)


def ask(server: StandinServer, text: str, **fields: Any) -> Any:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": text}]
        return client.chat.completions.create(model="standin-judge", messages=messages, **fields).choices[0]


def test_the_better_output_is_named_wherever_it_stands_and_its_probability_given() -> None:
    with StandinServer(noise=0.0, position_bias=0.0) as server:
        first = ask(server, annotation(RIGHT, WRONG), max_tokens=1, logprobs=True, top_logprobs=5)
        second = ask(server, annotation(WRONG, RIGHT), max_tokens=1, logprobs=True, top_logprobs=5)
        plain = ask(server, annotation(RIGHT, WRONG))
    assert (first.message.content, second.message.content, plain.message.content) == ("m", "M", "m")
    listed = {each.token: math.exp(each.logprob) for each in first.logprobs.content[0].top_logprobs}
    assert listed["m"] > 0.9
    assert sum(listed.values()) == pytest.approx(1)
    assert plain.logprobs is None


def test_one_without_log_probabilities_names_the_output_all_the_same() -> None:
    with StandinServer(logprobs=False) as server:
        choice = ask(server, annotation(RIGHT, WRONG), logprobs=True, top_logprobs=5)
    assert (choice.message.content, choice.logprobs) == ("m", None)


@pytest.mark.parametrize(("prefers", "named"), [("first", "m"), ("longer", "M")])
def test_one_told_to_look_at_places_or_lengths_looks_at_nothing_else(prefers: Any, named: str) -> None:
    with StandinServer(prefers=prefers) as server:
        assert ask(server, annotation(RIGHT, WRONG)).message.content == named
        assert ask(server, annotation("sea", "a long essay", "Write about the sea.")).message.content == named


def test_what_it_does_not_know_it_refuses() -> None:
    with StandinServer() as server:
        assert ask(server, annotation("a", "b", "Write about the sea.")).message.refusal


def test_log_probabilities_that_cannot_be_had_are_a_wrong_request() -> None:
    with StandinServer() as server, pytest.raises(openai.BadRequestError, match="top_logprobs"):
        ask(server, annotation(RIGHT, WRONG), logprobs=True, top_logprobs=21)


TURN_2 = {"follow_up": "Make plural: apple", "follow_up_reference": ""}
NO_TURN_2 = dict.fromkeys(("follow_up", "follow_up_reference", "follow_up_answer"), "")


def test_an_answer_is_rated_and_of_two_turns_the_second() -> None:
    single = load_prompt("mt_bench_single")
    first = single.render(question=SUM, answer=RIGHT, reference="91", **NO_TURN_2)
    both = {"question": SUM, "answer": RIGHT, "reference": "", **TURN_2, "follow_up_answer": "Answer: pear"}
    with StandinServer(noise=0.0) as server:
        replies = [ask(server, text).message.content for text in (first, single.render(**both))]
    ratings = [parse_rating(reply) for reply in replies]
    assert isinstance(ratings[1], float)
    assert ratings[0] == 9.0 > ratings[1]


@pytest.mark.parametrize("category", ["generic", "coding", "math"])
def test_a_review_has_its_scores_where_the_prompt_wants_them(category: str) -> None:
    kind = request_kind(category)
    text = load_prompt("vicuna").render(kind=kind, question=SUM, response_1=WRONG, response_2=RIGHT)
    with StandinServer(noise=0.0) as server:
        scores = parse_review(ask(server, text).message.content, category)
    assert isinstance(scores, tuple)
    assert scores[0] < scores[1]
