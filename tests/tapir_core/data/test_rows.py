"""One record as one instruction: shapes, turns, answers, what makes a record broken."""

import json
from typing import Any

import pytest

from tapir_core.data.readers import read_heldout_row, read_row
from tapir_core.data.records import BadRecordError
from tapir_core.text import instruction_id
from tapir_core.turns import messages_of


def turns(*pairs: tuple[str, str], speaker: str = "role", content: str = "content") -> list[dict[str, str]]:
    return [{speaker: who, content: what} for who, what in pairs]


def test_input_follows_the_instruction_after_a_blank_line() -> None:
    row = read_row({"instruction": "Sum the numbers.", "input": "2, 3", "output": "5"})
    assert row.instruction == "Sum the numbers.\n\n2, 3"


def test_an_empty_input_leaves_the_instruction_alone() -> None:
    assert read_row({"instruction": "Say hi.", "input": "  ", "output": ""}).instruction == "Say hi."


def test_the_output_of_alpaca_is_no_reference() -> None:
    assert read_row({"instruction": "Say hi.", "input": "", "output": "Hi."}).reference is None


def test_a_reference_field_is_the_reference() -> None:
    assert read_row({"instruction": "2 + 3?", "output": "It is 5.", "reference": "5"}).reference == "5"


def test_the_id_is_taken_of_system_and_instruction() -> None:
    row = read_row({"instruction": " Say hi.\n", "system": "Be brief."})
    assert row.instruction_id == instruction_id("Say hi.", "Be brief.")
    assert (row.instruction, row.system) == ("Say hi.", "Be brief.")


LONG = turns(("system", "S"), ("user", "A?"), ("assistant", "B."), ("user", "C?"), ("assistant", "D."))


def test_of_a_conversation_all_up_to_the_last_user_turn_is_the_instruction() -> None:
    row = read_row({"messages": LONG})
    assert (row.system, row.instruction, row.answer) == ("S", "C?", None)
    assert messages_of(row._asdict()) == [("system", "S"), ("user", "A?"), ("assistant", "B."), ("user", "C?")]


def test_earlier_turns_are_in_the_id_where_there_are_any() -> None:
    row = read_row({"messages": LONG})
    assert row.instruction_id == instruction_id("C?", "S", [("user", "A?"), ("assistant", "B.")])
    assert row.instruction_id != instruction_id("C?", "S")
    alone = read_row({"messages": LONG[:2]})
    assert (alone.earlier_turns, alone.instruction_id) == (None, instruction_id("A?", "S"))


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"messages": LONG}, "D."),
        ({"messages": LONG[:-1]}, None),
        ({"messages": LONG[:-1], "output": " E."}, "E."),
        ({"instruction": "A?", "output": "B."}, "B."),
        ({"instruction": "A?", "output": " "}, None),
        ({"instruction": "A?"}, None),
    ],
)
def test_an_answer_is_what_an_assistant_says_last_or_the_output(fields: dict[str, Any], answer: str | None) -> None:
    assert read_row(fields, answers=True).answer == answer
    assert read_row(fields) == read_row(fields, answers=True)._replace(answer=None)


def test_an_answer_that_is_no_text_matters_only_where_it_is_used() -> None:
    assert read_row({"instruction": "2 + 3?", "output": 5}).answer is None
    with pytest.raises(BadRecordError, match="`output` is int, not text"):
        read_row({"instruction": "2 + 3?", "output": 5}, answers=True)


def test_sharegpt_conversations_give_the_same_row_as_messages() -> None:
    sharegpt = turns(("system", "S"), ("human", "A?"), ("gpt", "B."), ("human", "C?"), speaker="from", content="value")
    messages = turns(("system", "S"), ("user", "A?"), ("assistant", "B."), ("user", "C?"))
    assert read_row({"conversations": sharegpt}) == read_row({"messages": messages})


def test_a_system_field_beside_the_conversation_counts_when_the_conversation_has_none() -> None:
    assert read_row({"system": "S", "messages": turns(("user", "A?"))}).system == "S"
    assert read_row({"system": "S", "messages": turns(("system", "S "), ("user", "A?"))}).system == "S"


def test_messages_in_a_cell_of_text_are_read_as_json() -> None:
    assert read_row({"messages": '[{"role": "user", "content": "A?"}]'}).instruction == "A?"


def test_a_lone_surrogate_becomes_a_text_that_can_be_written() -> None:
    assert read_row({"instruction": "A\ud800?"}).instruction.encode() == b"A??"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "none of `instruction`, `messages` and `conversations`"),
        ({"prompt": "A?"}, "it has prompt"),
        ({"instruction": ""}, "the instruction is empty"),
        ({"instruction": "", "input": "2, 3"}, "the instruction is empty"),
        ({"instruction": None}, "the instruction is empty"),
        ({"instruction": 7}, "`instruction` is int, not text"),
        ({"instruction": "A?", "reference": 7}, "`reference` is int, not text"),
        ({"instruction": "A?", "input": ["x"]}, "`input` is list, not text"),
        ({"messages": "hello"}, "`messages` is text but no JSON list"),
        ({"messages": {"role": "user"}}, "`messages` is no list of turns"),
        ({"messages": {"role": ["user"], "content": []}}, "`messages` is no list of turns, and no object of lists of"),
        ({"messages": []}, "the instruction is empty"),
        ({"messages": turns(("user", "A?")), "tools": "None"}, "`tools`: Expecting value"),
        ({"messages": turns(("user", "A?")), "tools": "[{'type': 'function'}]"}, "`tools`: Expecting property name"),
        ({"messages": ["A?"]}, "`messages`: turn 1 is str, and no object with a role and a text"),
        (
            {"messages": turns(("assistant", "B."), ("user", "A?"))},
            "turn 1 is of 'assistant'; user and assistant take turns",
        ),
        ({"messages": turns(("system", "S"), ("developer", "T"), ("user", "A?"))}, "turn 2 is of 'developer'"),
        ({"messages": turns(("user", " "))}, "the instruction is empty"),
        ({"instruction": "nan"}, "the instruction is empty"),
        (
            {"messages": [{"speaker": "user", "text": "A?"}]},
            "turn 1 has neither `role` nor `from` (it has speaker, text)",
        ),
        ({"messages": [{"role": "user", "from": "gpt", "value": "A?"}]}, "turn 1: `role` and `from` disagree"),
        ({"messages": [{"role": "user", "content": "A?", "value": "B?"}]}, "turn 1: `content` and `value` disagree"),
        ({"messages": '[{"role": "user", "role": "user", "content": "A?"}]'}, "`role` stands twice in one object"),
        ({"instruction": "A?", "messages": LONG}, "`messages` and `instruction` disagree; leave one out, or say which"),
        ({"messages": LONG, "conversations": LONG[3:]}, "`messages` and `conversations` disagree"),
        ({"system": "T", "messages": LONG}, "it has 2 different system texts; keep one"),
        ({"messages": [*LONG, *LONG[2:]]}, "`messages`: turn 6 is of 'assistant'; user and assistant take turns"),
        ({"messages": turns(("user", "A?"), ("user", "B?"))}, "`messages`: turn 2 is of 'user'"),
        ({"messages": turns(("user", "A?"), ("tool", "B"), ("user", "C?"))}, "`messages`: turn 2 is of 'tool'"),
        ({"messages": turns(("user", "A?"), ("assistant", " "), ("user", "C?"))}, "`messages`: turn 2 is empty"),
        ({"messages": [*LONG, "A?"]}, "`messages`: turn 6 is str"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "`messages`: turn 1: `content` is list, not text",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "content": "?"}]}
                ]
            },
            "`messages`: turn 1: `content` is list, not text",
        ),
        ({"conversations": turns(("system", "S"))}, "`conversations` has no user turn"),
    ],
)
def test_a_broken_record_says_why(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRecordError) as caught:
        read_row(fields)
    assert reason in str(caught.value)


def test_a_heldout_row_is_of_the_test_split_unless_it_says_otherwise() -> None:
    assert read_heldout_row({"instruction": "A?", "reference": "B"}).split == "test"
    row = read_heldout_row({"instruction": "A?", "reference": "B", "split": "dev", "task_type": "Math"})
    assert (row.split, row.task_type) == ("dev", "Math")


def test_a_heldout_row_that_a_verifier_marks_may_do_without_a_reference() -> None:
    assert read_heldout_row({"instruction": "A?", "reference": " "}, bare=True).reference is None
    with pytest.raises(BadRecordError, match="neither 'dev' nor 'test'"):
        read_heldout_row({"instruction": "A?", "split": "train"}, bare=True)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "no `reference`"),
        ({"reference": "B", "split": "train"}, "`split` 'train' is neither 'dev' nor 'test'"),
        ({"reference": "B", "task_type": "Maths"}, "did you mean 'Math'?"),
        ({"reference": "B", "task_type": "zzz"}, "the 32 are: Math, Reasoning"),
    ],
)
def test_a_heldout_record_needs_a_reference_and_known_names(fields: dict[str, str], reason: str) -> None:
    with pytest.raises(BadRecordError) as caught:
        read_heldout_row({"instruction": "A?", **fields})
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["messages", "conversations"])
@pytest.mark.parametrize(
    "keys", [{}, {"speaker": "from", "content": "value"}, {"speaker": "from"}, {"content": "value"}], ids=str
)
@pytest.mark.parametrize(
    "who",
    [
        ("system", "user", "assistant"),
        ("developer", "User", "ASSISTANT"),
        ("System", "HUMAN", "GPT"),
        ("system", " human", "model"),
    ],
    ids=str,
)
def test_a_conversation_of_either_name_has_either_pair_of_keys_and_roles_in_any_letters(
    name: str, keys: dict[str, str], who: tuple[str, str, str]
) -> None:
    row = read_row({name: turns((who[0], "S"), (who[1], "A?"), (who[2], "B."), **keys)}, answers=True)
    assert (row.system, row.instruction, row.answer) == ("S", "A?", "B.")


def test_keys_that_are_there_without_a_value_say_nothing() -> None:
    turn = {"role": None, "content": None, "from": "human", "value": "A?"}
    assert read_row({"conversations": [turn]}).instruction == "A?"


@pytest.mark.parametrize("nothing", [None, "", " ", [], {}, "[]", "null", "nan", float("nan")], ids=str)
def test_a_layout_with_nothing_in_it_is_absent(nothing: Any) -> None:
    assert read_row({"instruction": "A?", "conversations": nothing, "messages": nothing}).instruction == "A?"
    if isinstance(nothing, str | None):
        assert (
            read_row({"instruction": nothing if nothing not in ("[]", "null") else "", "messages": LONG}).instruction
            == "C?"
        )


def test_layouts_that_agree_are_one_instruction() -> None:
    assert read_row({"instruction": "C?", "system": "S", "messages": LONG}) == read_row({"messages": LONG})
    alpaca = {"instruction": "Sum.", "input": "2, 3"}
    assert read_row({**alpaca, "conversations": turns(("user", "Sum.\n2, 3"))}).instruction == "Sum.\n2, 3"


@pytest.mark.parametrize(
    "words",
    [
        "<noinput>",
        "noinput",
        "No input",
        "<no input>",
        "[No Input]",
        "no input required.",
        "N/A",
        "nan",
        "<NA>",
        "None",
        "n.a.",
        "#N/A",
        "<empty>",
        "<no  input>",
        "( No input )",
        "no input\nneeded",
    ],
)
def test_words_for_no_input_are_an_empty_input_and_noted(words: str) -> None:
    row = read_row({"instruction": "Name a fruit.", "input": words, "system": words})
    assert row._replace(noted=()) == read_row({"instruction": "Name a fruit."})
    assert row.noted == ("placeholder_input",)


@pytest.mark.parametrize(
    "words", ["no", "NA", "nano", "No input was received.", "0", "None of them came.", "nil", "empty", "#1", "n.b."]
)
def test_an_input_that_only_looks_like_them_is_kept(words: str) -> None:
    assert read_row({"instruction": "Classify it.", "input": words}).instruction == f"Classify it.\n\n{words}"


@pytest.mark.parametrize(
    ("marked", "is_learnt"),
    [
        ({"weight": 0}, False),
        ({"weight": 0.0}, False),
        ({"loss_weight": 0}, False),
        ({"trainable": False}, False),
        ({"masked": True}, False),
        ({"mask": False}, True),
        ({"loss": False}, False),
        ({"train": "false"}, False),
        ({"training": False}, False),
        ({"weight": 1}, True),
        ({"weight": None}, True),
        ({"loss": True, "weight": 0.5}, True),
    ],
    ids=str,
)
def test_an_answer_that_is_not_to_be_learnt_is_lacking_and_noted(marked: dict[str, Any], is_learnt: bool) -> None:
    *before, last = LONG
    fields = {"messages": [*before, {**last, **marked}], "output": None if is_learnt else "D."}
    row = read_row(fields, answers=True)
    assert row.answer == ("D." if is_learnt else None)
    assert row.noted == (() if is_learnt else ("answer_not_to_be_learnt",))
    assert read_row(fields).noted == ()


@pytest.mark.parametrize("layout", [{"messages": LONG}, {"instruction": "C?", "output": "D."}], ids=str)
@pytest.mark.parametrize(
    ("mark", "is_learnt"), [({"weight": 0}, False), ({"train": "false"}, False), ({"weight": 2}, True)]
)
def test_a_row_that_is_not_to_be_learnt_has_no_answer(
    layout: dict[str, Any], mark: dict[str, Any], is_learnt: bool
) -> None:
    row = read_row({**layout, **mark}, answers=True)
    assert row.answer == ("D." if is_learnt else None)
    assert row.noted == (() if is_learnt else ("answer_not_to_be_learnt",))


@pytest.mark.parametrize(("speaker", "content"), [("role", "content"), ("from", "value")])
def test_an_object_of_lists_is_a_conversation(speaker: str, content: str) -> None:
    lists = {speaker: [turn["role"] for turn in LONG], content: [turn["content"] for turn in LONG]}
    for given in (lists, json.dumps(lists), {**lists, "weight": None}, {**lists, "weight": [1] * len(LONG)}):
        assert read_row({"messages": given}, answers=True) == read_row({"messages": LONG}, answers=True)
    not_learnt = {**lists, "weight": [*[1] * (len(LONG) - 1), 0]}
    assert read_row({"messages": not_learnt}, answers=True).answer is None
    assert read_row({"messages": {speaker: [], content: []}, "instruction": "A?"}).instruction == "A?"


def test_answers_that_disagree_matter_only_where_they_are_used() -> None:
    fields = {"messages": LONG, "output": "E."}
    assert read_row(fields).answer is None
    with pytest.raises(BadRecordError, match="it has 2 different answers"):
        read_row(fields, answers=True)


def test_a_content_of_text_parts_is_the_parts_together() -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "a tapir?"}]
    assert read_row({"messages": [{"role": "user", "content": parts}]}).instruction == "What is a tapir?"
