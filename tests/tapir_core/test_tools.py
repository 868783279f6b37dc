"""Tools as text, and back as APIs and templates take them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core import tools
from tapir_core.tools import Call, calls_in, message_text, result_text, same_calls, structured

DEFINED = tools.definitions([{"name": "weigh", "parameters": {"type": "object"}}])
CALL = Call("weigh", {"animal": "tapir"})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    max_leaves=8,
)


def test_messages_come_back_as_an_api_takes_them() -> None:
    two = message_text("Both.", [{"function": {"name": name, "arguments": '{"a": 1}'}} for name in ("f", "g")])
    turns = [("system", "S"), ("tools", DEFINED), ("user", "Q"), ("assistant", two)]
    results = f"{result_text('one')}\n{result_text('two')}"
    messages, defined = structured([*turns, ("user", results), ("assistant", "Done."), ("user", "More?")], as_text=True)
    assert defined == [{"type": "function", "function": {"name": "weigh", "parameters": {"type": "object"}}}]
    assert [each["role"] for each in messages] == ["system", "user", "assistant", "tool", "tool", "assistant", "user"]
    called = messages[2]["tool_calls"]
    assert [each["function"] for each in called] == [{"name": name, "arguments": '{"a": 1}'} for name in ("f", "g")]
    assert messages[2]["content"] == "Both."
    assert [(each["tool_call_id"], each["content"]) for each in messages[3:5]] == [
        (called[0]["id"], "one"),
        (called[1]["id"], "two"),
    ]


def test_a_template_gets_arguments_as_objects() -> None:
    turns = [("tools", "[]"), ("user", "Q"), ("assistant", CALL.text), ("user", result_text("250 kg"))]
    messages, defined = structured(turns, as_text=False)
    assert defined == []
    assert messages[1]["tool_calls"][0]["function"] == {"name": "weigh", "arguments": {"animal": "tapir"}}
    assert messages[2] == {"role": "tool", "tool_call_id": "call_1", "content": "250 kg"}


@pytest.mark.parametrize("text", [CALL.text, result_text("x"), f"See {CALL.text}"])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_without_tools_such_marks_are_text(role: str, text: str) -> None:
    assert structured([(role, text)], as_text=True) == ([{"role": role, "content": text}], ())


@pytest.mark.parametrize("text", ["<tool_call>\n{no}\n</tool_call>", "<tool_call>\n{}\n</tool_call>", "<tool_call>"])
def test_what_is_no_call_stays_text(text: str) -> None:
    assert calls_in(text) == (text, [])


@given(st.text(min_size=1), st.dictionaries(st.text() | st.just("</tool_call>"), VALUES | st.just("}</tool_call>")))
def test_any_call_survives_its_text(name: str, arguments: dict[str, Any]) -> None:
    assert calls_in(Call(name, arguments).text) == ("", [Call(name, arguments)])


@pytest.mark.parametrize("arguments", ["[]", "no JSON", '"text"', 5])
@pytest.mark.parametrize("name", ["f", None])
def test_what_is_no_call_of_a_function_is_refused(name: str | None, arguments: object) -> None:
    for calls in ({"name": name, "arguments": arguments}, [{"function": {"name": name, "arguments": arguments}}]):
        with pytest.raises(ValueError, match=r"no JSON object|Expecting value"):
            message_text("", calls)


@pytest.mark.parametrize("function", [None, "f", {"custom": {"name": "f"}}])
def test_a_call_of_another_kind_is_refused(function: object) -> None:
    with pytest.raises(ValueError, match="no name of a function"):
        message_text("", [{"type": "custom", "function": function}])


@pytest.mark.parametrize("arguments", ["", "{}", None, {}])
def test_a_call_without_arguments_has_none(arguments: object) -> None:
    assert calls_in(message_text("", {"name": "f", "arguments": arguments})) == ("", [Call("f", {})])


@pytest.mark.parametrize("tools_of", ["[5]", '{"name": "f"}', [{"type": "custom", "custom": {"name": "f"}}], [{}]])
def test_tools_that_are_no_functions_are_refused(tools_of: object) -> None:
    with pytest.raises(ValueError, match="no list of functions"):
        tools.definitions(tools_of)


@pytest.mark.parametrize("text", ["a\n</tool_response>\nb", "<tool_response>\nx", "", "</tool_response>"])
def test_any_result_survives_its_text(text: str) -> None:
    turns = [("tools", DEFINED), ("user", "Q"), ("assistant", CALL.text), ("user", result_text(text))]
    messages, _ = structured(turns, as_text=True)
    assert [(each["role"], each["content"]) for each in messages[2:]] == [("tool", text)]


def test_a_result_that_is_marked_already_is_marked_once() -> None:
    assert result_text("<tool_response>\n250 kg\n</tool_response>") == result_text("250 kg")


def test_what_a_user_types_like_a_result_stays_what_he_says() -> None:
    typed = f"Why {result_text('x')} so?"
    turns = [("tools", DEFINED), ("user", "Q"), ("assistant", CALL.text), ("user", result_text("250 kg"))]
    later = [("assistant", "250 kg."), ("user", typed), ("assistant", "So."), ("user", result_text("y"))]
    messages, _ = structured([*turns, *later], as_text=True)
    assert [each["content"] for each in messages if each["role"] == "user"] == ["Q", typed, result_text("y")]


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        (CALL.text, 1.0),
        (f"I weigh it.\n{CALL.text}", 1.0),
        (Call("weigh", {"animal": "okapi"}).text, 0.0),
        (Call("ask", {"animal": "tapir"}).text, 0.0),
        (f"{CALL.text}\n{CALL.text}", 0.0),
        ("250 kg", 0.0),
        ("", 0.0),
    ],
)
def test_calls_are_the_same_by_name_and_arguments(answer: str, same: float) -> None:
    assert same_calls(answer, CALL.text) == same
    assert same_calls(CALL.text, answer) == same


def test_the_order_of_calls_and_of_arguments_says_nothing() -> None:
    first, second = Call("f", {"a": 1, "b": [2]}), Call("f", {"b": [2], "a": 1})
    assert same_calls(f"{first.text}\n{CALL.text}", f"{CALL.text}\n{second.text}") == 1.0


@pytest.mark.parametrize(
    ("given", "meant", "same"),
    [(1.0, 1, 1.0), ([{"n": -2.0}], [{"n": -2}], 1.0), (1.5, 1, 0.0), (True, 1, 0.0), ("1.0", 1, 0.0), (1e300, 1, 0.0)],
)
def test_numbers_are_the_same_however_they_are_written(given: Any, meant: Any, same: float) -> None:
    assert same_calls(Call("f", {"a": given}).text, Call("f", {"a": meant}).text) == same
    assert same_calls(Call("f", {"a": given}).text, Call("f", {"a": given}).text) == 1.0


def test_answers_without_calls_are_not_compared() -> None:
    assert same_calls("Yes.", "No.") is None
