import json
import random

import pytest

from tapir_core.standin.families import FAMILIES, recognise
from tapir_core.standin.family import LEVELS


@pytest.mark.parametrize(
    ("instruction", "level", "reference"),
    [
        ("As JSON: room 88", 1, '{"room": 88}'),
        ("JSON object for age 78, colour yellow?", 2, '{"age": 78, "colour": "yellow"}'),
        ("Reverse the melody E G C.", 1, "C G E"),
        ("Result: Sharks 12, Tigers 13, Bulls 15. Winner?", 2, "Bulls"),
        ("Who won: Bulls 13 and 4, Ravens 10 and 8?", 4, "Ravens"),
        ("Food chain nettle - beetle - robin: what eats the beetle?", 1, "robin"),
        ("What is eaten by the toad in the chain clover - locust - toad - weasel?", 3, "locust"),
        ("In wheat - locust - toad - heron - falcon, what eats the eater of the locust?", 5, "heron"),
    ],
)
def test_known_records(instruction: str, level: int, reference: str) -> None:
    problem = recognise(instruction)
    assert problem is not None
    assert (problem.level, problem.reference) == (level, reference)


def test_a_record_is_json_with_as_many_fields_as_its_level() -> None:
    rng = random.Random(17)
    for level in LEVELS:
        assert len(json.loads(FAMILIES["record"].draw_problem(level, rng).reference)) == level
