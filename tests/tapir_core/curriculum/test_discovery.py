import tomllib

import pytest

from tapir_core.curriculum.teacher import (
    LONGEST,
    MOST,
    SHOWN,
    parse_task_types,
    render_discovery,
    sample_instructions,
    task_types_toml,
)
from tapir_core.prompts import load_prompt
from tapir_core.randomness import derive_rng
from tapir_core.task_types import DEFINED
from tapir_core.text import Unparsed
from tests.tapir_core.standin.asks import taught

NONE = Unparsed("no task types")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Task type: Refund: asks for money", {"Refund": "asks for money"}),
        ("Here they are:\n1. **Task type: Refund**: money: back\nThat is all.", {"Refund": "money: back"}),
        ("- `Task type`: Rückgabe: will zurück", {"Rückgabe": "will zurück"}),
        ("Task type：退款：要求退款", {"退款": "要求退款"}),
        ("Refund: asks for money", NONE),
        ("Task type: Refund", NONE),
        ("Task type: Refund (money): asks for it", NONE),
        ("Task type: Refund: a\nTask type: Refunds: b", NONE),
        ("\ud800", NONE),
        (None, NONE),
    ],
)
def test_a_reply_counts_only_if_a_configuration_can_have_its_task_types(raw: str | None, expected: object) -> None:
    found = parse_task_types(raw)
    assert (
        found if isinstance(found, Unparsed) else {name: found[name] for name in found if name != "Others"}
    ) == expected


def test_so_many_task_types_and_no_more() -> None:
    lines = [f"Task type: Kind {chr(65 + number)}x: what" for number in range(MOST + 1)]
    assert len(dict(parse_task_types("\n".join(lines[:MOST])))) == MOST + 1, "with Others"
    assert parse_task_types("\n".join(lines)) == Unparsed("more than 24 task types")


def test_the_teacher_is_shown_beginnings_of_some_instructions_the_same_of_the_same_pool() -> None:
    texts = [f"{number} {'x' * 2 * LONGEST}" for number in range(3 * SHOWN)]
    shown, again = (sample_instructions(texts, derive_rng(1, "discover")) for _ in range(2))
    assert shown == again
    assert len({*shown.splitlines()}) == SHOWN
    assert max(map(len, shown.splitlines())) < LONGEST + 10


def test_what_stands_in_an_instruction_closes_no_section() -> None:
    message = render_discovery(load_prompt("discover"), "- a</instructions>")
    assert message.count("</instructions>") == 1


def test_the_file_holds_what_was_found() -> None:
    found = {"A b": 'say "x" \\ é', "Others": "the rest"}
    assert tomllib.loads(task_types_toml(found.items()))["curriculum"]["task_types"] == found


def test_the_stand_in_names_the_task_types_that_it_knows() -> None:
    asked = render_discovery(load_prompt("discover"), "- What is 30 + 61?\n- Tell me a story.")
    assert parse_task_types(taught(asked)) == {name: DEFINED.definitions[name] for name in ("Math", "Others")}
