import pytest

from tapir_core.standin.families import recognise
from tapir_core.standin.family import WORDS


@pytest.mark.parametrize(
    ("instruction", "level", "reference"),
    [
        ("Which century is 1135 in?", 1, "12th"),
        ("Which century is 1800 in?", 1, "18th"),
        ("Which century is 1801 in?", 1, "19th"),
        ("Name the century of 100.", 2, "1st"),
        ("Which century: 284 years after 1466?", 3, "18th"),
        ("Name the century of 686 BC.", 4, "7th BC"),
        ("Name the century of 100 BC.", 4, "1st BC"),
        ("Name the century of 44 years after 44 BC.", 5, "1st"),
        ("Name the century of 144 years after 44 BC.", 5, "2nd"),
        ("How many kg are 23 t?", 1, "23000"),
        ("Convert 88 cm to m.", 3, "0.88"),
        ("700 g in kg?", 3, "0.7"),
        ("Convert 51.9 km to m.", 4, "51900"),
        ("47 km in mm?", 5, "47000000"),
        ("What is the chemical name of As?", 1, "arsenic"),
        ("Give the chemical symbol: silicon, gold", 2, "Si, Au"),
    ],
)
def test_known_facts(instruction: str, level: int, reference: str) -> None:
    problem = recognise(instruction)
    assert problem is not None
    assert (problem.level, problem.reference) == (level, reference)


def test_no_two_elements_share_a_symbol() -> None:
    assert len({symbol.casefold() for symbol in WORDS.elements.values()}) == len(WORDS.elements)
