"""What an endpoint takes is found out before the first row, and said: against servers in the shape of providers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tapir_core.calls import Answer, AnswerStore, CallEngine, Failure, Outcome, Request
from tapir_core.config import CallsConfig, EndpointConfig, RunConfig
from tapir_core.errors import ConfigError
from tapir_core.probing import in_words, settle
from tapir_core.run_folder import Settled
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.doubles.shapes import SHAPES
from tests.run_config import make_config

UNKNOWN: dict[str, Settled] = {}


def asked_at(provider: FakeProvider, *, replies: str = "text", **teacher: Any) -> RunConfig:
    # As for a provider far away: a local address gets no seed of itself.
    endpoint = {"type": "openai", "base_url": provider.base_url, "api_key_env": "", "seed": True}
    endpoint |= teacher.pop("endpoint", {})
    return make_config(
        "runs",
        teacher={"endpoint": {**endpoint, "model": "a-teacher"}, "label_replies": replies, **teacher},
        judge={"endpoint": {**endpoint, "model": "a-judge"}, "replies": replies},
    )


def settled(
    store_url: str, quick: CallsConfig, config: RunConfig, known: Mapping[str, Settled] = UNKNOWN
) -> tuple[RunConfig, dict[str, Settled]]:
    with CallEngine(AnswerStore(store_url), quick, run="a-run") as engine:

        def ask(_: str, endpoint: EndpointConfig, request: Request) -> Outcome:
            from tasks.engines.endpoints import Endpoints, endpoint_source

            [outcome] = engine.ask([request], endpoint_source(endpoint, Endpoints(8, Path, ""), "teacher.endpoint"))
            return outcome

        return settle(config, known, ask)


LEFT_OUT = {
    "openai_reasoning": {
        "teacher.answering.temperature": "provider",
        "teacher.answering.top_p": "provider",
        "teacher.expanding.top_p": "provider",
        "teacher.endpoint.tokens_field": "max_completion_tokens",
        "judge.sampling.temperature": "provider",
        "judge.endpoint.tokens_field": "max_completion_tokens",
    },
    "anthropic": {"teacher.answering.top_p": "provider", "judge.sampling.top_p": "provider"},
    "anthropic_newest": {"teacher.answering.temperature": "provider", "judge.sampling.temperature": "provider"},
    "gemini": {"teacher.endpoint.seed": False, "judge.endpoint.seed": False},
    "mistral": {"teacher.endpoint.seed": False, "judge.endpoint.seed": False},
    "vllm": {},
    "vllm_inline": {},
    "ollama": {},
    "llama_cpp": {},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_provider_refuses_is_left_out_and_said_and_what_it_takes_stays(
    shape: str, store_url: str, quick: CallsConfig
) -> None:
    with FakeProvider(SHAPES[shape], probed=True) as provider:
        config, found = settled(store_url, quick, asked_at(provider))
        changes = {name: value for each in found.values() for name, value in each.changes.items()}
        assert LEFT_OUT[shape].items() <= changes.items()
        assert bool(LEFT_OUT[shape]) == bool(changes)
        assert all(name in " ".join(in_words(found)) for name in changes)
        # A model of OpenAI takes temperature 1, and keeps it.
        if shape == "openai_reasoning":
            assert config.teacher.expanding.temperature == 1.0
        asked = len(provider.calls)
        again, found_again = settled(store_url, quick, asked_at(provider), found)
        assert (again, found_again) == (config, found)
        assert len(provider.calls) == asked, "what is known is asked nobody"


def test_a_probe_is_paid_once_for_all_runs(store_url: str, quick: CallsConfig) -> None:
    with FakeProvider(probed=True) as provider:
        settled(store_url, quick, asked_at(provider))
        asked = len(provider.calls)
        settled(store_url, quick, asked_at(provider))
        assert 0 < asked == len(provider.calls)


def test_another_model_is_probed_again(store_url: str, quick: CallsConfig) -> None:
    with FakeProvider(probed=True) as provider:
        _, found = settled(store_url, quick, asked_at(provider))
        asked = len(provider.calls)
        settled(store_url, quick, asked_at(provider, endpoint={"reasoning_effort": "high"}), found)
        assert len(provider.calls) == 2 * asked
        assert provider.calls[-1].body["reasoning_effort"] == "high"


@pytest.mark.parametrize(
    ("teacher", "remedy"),
    [
        ({"endpoint": {"reasoning_effort": "high"}}, "leave out what sets"),
        ({"answering": {"max_tokens": 30}}, "teacher.answering.max_tokens: value 30"),
        ({"answering": {"max_tokens": 8}}, "with higher max_tokens. Raise max_tokens of this sampling"),
    ],
)
def test_what_must_not_be_left_out_is_refused_with_the_providers_words_and_a_remedy(
    teacher: dict[str, Any], remedy: str, store_url: str, quick: CallsConfig
) -> None:
    shape = "ollama" if "endpoint" in teacher else "openai_reasoning"
    with FakeProvider(SHAPES[shape], probed=True) as provider, pytest.raises(ConfigError, match=remedy):
        settled(store_url, quick, asked_at(provider, **teacher))


def test_an_endpoint_that_cannot_be_asked_now_is_left_as_it_is(store_url: str, quick: CallsConfig) -> None:
    with FakeProvider(lambda _: Status(503), probed=True) as provider:
        config = asked_at(provider)
        assert settled(store_url, quick, config) == (config, {})


@pytest.mark.parametrize("shape", SHAPES)
def test_replies_by_a_schema_are_asked_for_where_the_endpoint_obeys_one(
    shape: str, store_url: str, quick: CallsConfig
) -> None:
    with FakeProvider(SHAPES[shape], probed=True) as provider:
        config, found = settled(store_url, quick, asked_at(provider, replies="json"))
    obeys = not shape.startswith("anthropic")
    assert (config.judge.replies, config.teacher.label_replies) == (("json", "json") if obeys else ("text", "text"))
    said = [line for line in in_words(found) if "judge.replies" in line]
    assert obeys or "to a request for JSON by a schema it replied" in said[0]
    assert bool(said) != obeys


@pytest.mark.parametrize(("shape", "replies"), [("vllm", "json"), ("anthropic", "text")])
def test_what_is_left_open_is_found_out_once_and_said(
    shape: str, replies: str, store_url: str, quick: CallsConfig
) -> None:
    with FakeProvider(SHAPES[shape], probed=True) as provider:
        left_open = asked_at(provider, replies="auto")
        config, found = settled(store_url, quick, left_open)
        assert (config.judge.replies, config.teacher.label_replies) == (replies, replies)
        assert any("judge.replies" in line and "by a schema it replied" in line for line in in_words(found))
        asked = len(provider.calls)
        again, _ = settle(left_open, found, lambda *_: pytest.fail("asked again"))
        assert again == config
        assert len(provider.calls) == asked


def test_who_refuses_a_schema_is_asked_for_text(store_url: str, quick: CallsConfig) -> None:
    def refuse(call: RecordedCall) -> FakeReply:
        if "response_format" in call.body:
            return Status(400, {"error": {"message": "response_format is not supported by this model"}})
        return Text("ready")

    with FakeProvider(refuse, probed=True) as provider:
        config, found = settled(store_url, quick, asked_at(provider, replies="json"))
    assert (config.judge.replies, config.teacher.label_replies) == ("text", "text")
    assert any("judge.replies" in line and "is not supported by this model" in line for line in in_words(found))


def test_the_stand_in_is_asked_for_text(store_url: str, quick: CallsConfig) -> None:
    def reply(*_: Any) -> Answer:
        return Answer("ready", "stop", 1, 1)

    config, _ = settle(make_config("runs", judge={"replies": "json"}), {}, reply)
    assert config.judge.replies == "text"


def test_the_stand_in_is_not_probed() -> None:
    def never(*_: Any) -> Answer | Failure:
        raise AssertionError("asked")

    config = make_config("runs")
    assert settle(config, {}, never) == (config, {})
