import json
import urllib.error
import urllib.request
from typing import Any

import openai
import pytest

from tapir_core.standin import STANDIN_VERSION
from tests.doubles.standin import StandinServer
from tests.tapir_core.standin.asks import SUM, expand_text, pair_text


def chat(server: StandinServer, text: str, model: str = "standin-teacher", **fields: Any) -> Any:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **fields)


def get(server: StandinServer, path: str) -> Any:
    with urllib.request.urlopen(server.base_url.removesuffix("/v1") + path) as reply:
        return json.load(reply)


def test_openais_client_gets_answers_refusals_and_errors() -> None:
    with StandinServer() as server:
        answer = chat(server, SUM)
        assert answer.choices[0].message.content == "Answer: 91"
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        refused = chat(server, "Write an essay about the sea.").choices[0].message
        assert refused.content is None
        assert "does not know" in refused.refusal
        assert chat(server, SUM, max_tokens=1).choices[0].finish_reason == "length"
        with pytest.raises(openai.NotFoundError, match="gpt-9"):
            chat(server, SUM, model="gpt-9")
        with pytest.raises(openai.BadRequestError):
            chat(server, SUM, n=3)


def test_seed_tells_expansions_apart() -> None:
    with StandinServer() as server:
        replies = [chat(server, expand_text(), seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert replies[0] == replies[1] != replies[2]


def test_models_and_health_are_served() -> None:
    with StandinServer() as server:
        assert [model["id"] for model in get(server, "/v1/models")["data"]] == ["standin-teacher", "standin-judge"]
        assert get(server, "/health") == {"status": "ok", "version": STANDIN_VERSION}


def test_a_body_that_is_not_json_is_a_bad_request() -> None:
    with StandinServer() as server:
        request = urllib.request.Request(f"{server.base_url}/chat/completions", data=b"{hello")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == 400
        assert "not JSON" in json.load(caught.value)["error"]["message"]


def test_bias_noise_and_latency_reach_the_replies() -> None:
    text = pair_text("Answer: 90", "Answer: 90")
    with StandinServer(position_bias=0.3, noise=0.0, latency_ms=1) as server:
        verdict = chat(server, text, model="standin-judge").choices[0].message.content
    assert verdict.endswith("Scores: [[6.3, 6.0]]")
