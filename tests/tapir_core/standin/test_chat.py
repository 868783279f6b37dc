import pytest

from tapir_core.standin.rules import Refusal
from tapir_core.standin.server import BadRequest, completion, model_list, parse_chat, rejection

BODY = {"model": "standin-teacher", "messages": [{"role": "user", "content": "What is 1 + 2?"}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"messages": []}, "'messages' must be"),
        ({"messages": "hello"}, "'messages' must be"),
        ({"messages": ["hello"]}, "'messages' must be"),
        ({"stream": True}, "does not stream"),
        ({"n": 2}, "one choice"),
        ({"max_tokens": "many"}, "'max_tokens' must be an integer, not 'many'"),
        ({"seed": 1.5}, "'seed' must be an integer, not 1.5"),
    ],
)
def test_a_wrong_request_is_answered_as_bad(change: dict[str, object], words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        parse_chat({**BODY, **change})
    assert caught.value.status == 400


def test_a_body_that_is_no_object_is_bad() -> None:
    with pytest.raises(BadRequest, match="JSON object"):
        parse_chat([BODY])


def test_another_model_does_not_exist() -> None:
    with pytest.raises(BadRequest) as caught:
        parse_chat({**BODY, "model": "gpt-9"})
    assert caught.value.status == 404
    assert rejection(caught.value).body["error"] == {
        "message": "The model `gpt-9` does not exist.",
        "type": "invalid_request_error",
        "param": None,
        "code": "model_not_found",
    }


def test_a_reply_carries_its_text_and_counts_its_tokens() -> None:
    whole = completion(parse_chat(BODY), "Answer: 3", created=5)
    assert whole["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Answer: 3", "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert whole["usage"] == {"prompt_tokens": 6, "completion_tokens": 3, "total_tokens": 9}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_reply_longer_than_max_tokens_is_cut_off(name: str) -> None:
    cut = completion(parse_chat({**BODY, name: 2}), "Answer: 3", created=5)
    assert cut["choices"][0]["message"]["content"] == "Answer:"
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 2


def test_a_refusal_is_typed_and_has_no_content() -> None:
    refused = completion(parse_chat(BODY), Refusal("No rule."), created=5)
    assert refused["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": "No rule."}
    assert refused["choices"][0]["finish_reason"] == "stop"


def test_both_models_are_listed() -> None:
    assert [model["id"] for model in model_list()["data"]] == ["standin-teacher", "standin-judge"]
