"""Thoughts before an answer as text, from whatever marks a model has."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core import thoughts
from tapir_core.calls import Answer, Endpoint
from tapir_core.calls.wire import read_completion
from tapir_core.tools import Call

KEPT, STRIPPED = Endpoint("http://h/v1", 1, thinking="keep"), Endpoint("http://h/v1", 1)


def read(endpoint: Endpoint, content: str, **message: str) -> str:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    outcome = read_completion(json.dumps({"choices": [choice], "usage": usage}), endpoint).outcome
    assert isinstance(outcome, Answer)
    return outcome.text


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ("<think>\nTwo and two.\n</think>\n\nFour.", {}),
        ("<think>Two and two.</think>Four.", {}),
        ("[THINK]Two and two.[/THINK]Four.", {}),
        ("Two and two.\n</think>\n\nFour.", {}),
        ("◁think▷Two and two.◁/think▷Four.", {}),
        ("Four.", {"reasoning_content": "Two and two."}),
        ("Four.", {"reasoning": "Two and two.\n"}),
    ],
)
def test_whatever_the_marks_a_kept_thought_is_written_in_one_form(content: str, more: dict[str, str]) -> None:
    text = read(KEPT, content, **more)
    assert thoughts.split(text) == ("Two and two.", "Four.")
    assert text == "<think>\nTwo and two.\n</think>\n\nFour."
    assert read(STRIPPED, content, **more) == "Four."


@pytest.mark.parametrize("text", ["Four.", "A <think> is a mark.", "Four, I <think>\nx\n</think>\n\nso."])
def test_an_answer_without_a_thought_stays_as_it_is(text: str) -> None:
    assert read(KEPT, text) == text
    assert thoughts.split(text) == ("", text)


def test_a_thought_before_a_call_is_told_from_it() -> None:
    call = {"function": {"name": "weigh", "arguments": "{}"}}
    message = {"role": "assistant", "content": "<think>I weigh it.</think>", "tool_calls": [call]}
    raw = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    found = [read_completion(raw, each).outcome for each in (KEPT, STRIPPED)]
    kept, stripped = (each.text if isinstance(each, Answer) else "" for each in found)
    assert stripped == Call("weigh", {}).text
    assert thoughts.split(kept) == ("I weigh it.", stripped)


@given(st.text(), st.text(min_size=1))
def test_what_is_joined_comes_apart_again_or_is_the_answer_alone(thought: str, answer: str) -> None:
    text = thoughts.join(thought, answer)
    assert thoughts.split(text) == (thought.strip(), answer) or text == answer


@pytest.mark.parametrize("thought", ["", " \n", "a\n</think>\n\nb"])
def test_a_thought_that_could_not_be_told_from_its_answer_is_left_out(thought: str) -> None:
    assert thoughts.join(thought, "Four.") == "Four."
