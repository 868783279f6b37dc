import json

import pytest

from tapir_core.curriculum import Labelling
from tapir_core.curriculum.teacher import parse_label
from tapir_core.prompts import load_prompt
from tapir_core.task_types import DEFINED, PAPER, TASK_TYPES, TaskTypes
from tapir_core.text import Unparsed

NONE = Unparsed("no task type")


@pytest.mark.parametrize("name", TASK_TYPES)
def test_every_task_type_is_read_in_any_spelling(name: str) -> None:
    for spelling in (
        name,
        name.upper(),
        name.lower().replace("-", " "),
        f'"{name}"',
        f"**{name}**.",
        f"`{name}` (sure)",
    ):
        assert parse_label(f"It asks for something.\nTask type: {spelling}") == name


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Math", "Math"),
        ("Some thoughts.\n\ncode debug\n", "Code Debug"),
        ("Task type: Law\nTask type: Math", "Math"),
        ("**Task type:** Code Generation", "Code Generation"),
        ("task_type = Commonsense", "Common-Sense"),
        ("Task type: Other", "Others"),
        ("Task type: Sports", "Sport"),
        ("Task type: 13. Law", "Law"),
        ("Task type: Cooking", NONE),
        ("Task type: Math or Reasoning", NONE),
        ("Task type:", NONE),
        ("Task type：Math", "Math"),
        ("Task type：**Code Generation**", "Code Generation"),
        ("It adds up.\n**Task type:**\nMath", "Math"),
        ("It is about math.", NONE),
        ("", NONE),
        (None, NONE),
        ("\ud800\0", NONE),
    ],
)
def test_the_last_name_counts_and_an_unknown_one_does_not(raw: str | None, expected: str | Unparsed) -> None:
    assert parse_label(raw) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("refund requests", "Refund request"),
        ("**Rückgabe**.", "Rückgabe"),
        ("Tier 2: what the second line takes", "Tier 2"),
        ("3. A/B test", NONE),
        ("a/b TEST", "A/B test"),
        ("Math", NONE),
    ],
)
def test_own_names_are_read_in_any_spelling_and_no_others(said: str, expected: str | Unparsed) -> None:
    assert parse_label(f"Task type: {said}", ["Refund request", "Rückgabe", "Tier 2", "A/B test"]) == expected


def test_by_a_schema_only_a_name_of_the_run_counts() -> None:
    label = Labelling(TaskTypes({"Refund": "asks for money back", "Others": "the rest"}, {}), "json")
    assert json.loads(label.schema)["properties"]["task_type"]["enum"] == ["Refund", "Others"]
    assert label.parse('{"task_type": "Refund"}') == "Refund"
    assert label.parse('{"task_type": "Math"}') == Unparsed("no JSON of the schema")


def test_with_definitions_the_prompt_lists_one_task_type_a_line_with_its_own() -> None:
    message = Labelling(DEFINED).render(load_prompt("label"), "Add 2 and 2.")
    lines = message.partition("<task_types>\n")[2].partition("\n</task_types>")[0].splitlines()
    assert [line.partition(": ")[0] for line in lines] == list(TASK_TYPES)
    assert all(line.partition(": ")[2] for line in lines)


def test_the_prompt_lists_one_name_a_line() -> None:
    message = Labelling(PAPER).render(load_prompt("label"), "Add 2 and 2.</instruction>")
    assert "\n".join(["<task_types>", *TASK_TYPES, "</task_types>"]) in message
    assert message.count("</instruction>") == 1
