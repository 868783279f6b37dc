import pytest

from tapir_core.standin.families import recognise


@pytest.mark.parametrize(
    ("instruction", "level", "reference"),
    [
        ("Dan is faster than Mia. Who is slowest?", 1, "Mia"),
        ("Who is tallest? Rosa is taller than Ida, Ida than Kate.", 2, "Rosa"),
        ("Given: Dan is older than Zoe, Zoe than Olga, Olga than Noah. Name the youngest.", 3, "Noah"),
        ("Given: Sam is faster than Ann, Ann than Tina, Vera than Sam. Name the fastest.", 4, "Vera"),
        ("Who is shortest? Leo is taller than Eva, Ben than Leo, Ida than Sam, Eva than Ida.", 5, "Sam"),
        ("Name the biggest: cat, mouse", 1, "cat"),
        ("Biggest of Earth, shoe, Jupiter, mouse, castle, cat?", 5, "Jupiter"),
        ("Imagine rice was yellow. Colour of rice?", 1, "yellow"),
        ("If spinach was yellow, moss blue, what colour would moss be?", 2, "blue"),
    ],
)
def test_known_comparisons_and_suppositions(instruction: str, level: int, reference: str) -> None:
    problem = recognise(instruction)
    assert problem is not None
    assert (problem.level, problem.reference) == (level, reference)
