"""Refined answers derive: their result follows from what stands before it, step by step."""

import random
import re

import pytest

from tapir_core.standin.families import FAMILIES, recognise
from tapir_core.standin.family import LEVELS, Problem

PIECES = re.compile(r"\d|[^\W\d_]+|[^\w\s]|\s(?=\d)")
"""About what a small tokenizer makes of a text: it has a token for each digit, and one for the blank before them."""


def drawn(name: str, level: int, count: int = 40) -> list[Problem]:
    rng = random.Random(11)
    return [FAMILIES[name].draw_problem(level, rng) for _ in range(count)]


def working(problem: Problem) -> str:
    """What a refined answer says before its result."""
    said, _, stated = problem.refined.rpartition("\n")
    assert stated == f"Answer: {problem.reference}"
    return said


def value_of(calculation: str) -> int:
    """From the left: no calculation here mixes signs of two ranks."""
    number, *steps = re.findall(r"[-+x] \d+|^\d+", calculation)
    value = int(number)
    for step in steps:
        sign, _, term = step.partition(" ")
        value = {"+": value + int(term), "-": value - int(term), "x": value * int(term)}[sign]
    return value


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_calculation_of_a_working_is_true(name: str) -> None:
    for level in LEVELS:
        for problem in drawn(name, level):
            for calculation, result in re.findall(r"(\d+(?: [-+x] \d+)+) = (\d+)", working(problem)):
                assert value_of(calculation) == int(result), problem.refined


@pytest.mark.parametrize("name", ["product", "stock"])
def test_the_last_calculation_gives_the_result(name: str) -> None:
    for level in LEVELS:
        for problem in drawn(name, level):
            assert re.split(r"\D+", working(problem).rstrip("."))[-1] == problem.reference


def test_the_columns_of_a_sum_give_its_digits() -> None:
    for level in LEVELS:
        for problem in drawn("sum", level):
            *lower, last = (
                re.split(r"\D+", each)[-1] for each in re.split(r", carry 1|, carry 2|\.", working(problem)) if each
            )
            assert last + "".join(each[-1] for each in reversed(lower)) == problem.reference


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_refined_answer_fits_what_a_small_student_may_say(name: str, level: int) -> None:
    """48 tokens on the levels of the quickstart, 96 on all."""
    assert max(len(PIECES.findall(each.refined)) for each in drawn(name, level, 200)) < (48 if level <= 2 else 96)


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        ("What is 5 + 4?", "Ones: 5 + 4 = 9."),
        ("Multiply 12 by 12.", "10 x 12 = 120, 2 x 12 = 24, 120 + 24 = 144."),
        ("Multiply 7 by 8.", "5 x 8 = 40, 2 x 8 = 16, 40 + 16 = 56."),
        ("Multiply 3 by 8.", "Count by 8: 8, 16, 24."),
        ("Multiply 10 by 10.", "10 x 10 = 100."),
        ("What is 705 times 5?", "700 x 5 = 3500, 5 x 5 = 25, 3500 + 25 = 3525."),
        ("Ann has 5 pens, buys 3, sells 8. How many now?", "buys 3: 5 + 3 = 8, sells 8: 8 - 8 = 0."),
        (
            "Given: Sam is faster than Ann, Ann than Tina, Vera than Sam. Name the fastest.",
            "Sam above Ann: not Ann. Ann above Tina: not Tina. Vera above Sam: not Sam. Left: Vera.",
        ),
        ("Dan is faster than Mia. Who is slowest?", "Dan above Mia: not Dan. Left: Mia."),
        ("Biggest of ant, hill, cat?", "ant or hill: hill. hill or cat: hill."),
        (
            "If spinach was yellow, moss blue, what colour would moss be?",
            "Asked: moss. spinach: no. moss: yes, blue here, in truth green.",
        ),
        (
            "Python lambda that subtracts 5 from x, then multiplies by 6?",
            "# subtracts 5: x - 5\n# multiplies by 6: (x - 5) * 6",
        ),
        (
            "Give a lambda which adds 5 to x if x is even, else divides x by 3.",
            "# even: x + 5\n# else: x / 3\n# even means x % 2 == 0",
        ),
        (
            "Debug: def speed(a: return a - 24",
            "# def and return are right; bracket must be closed; colon is there; a is the argument",
        ),
        (
            "Debug: dfe speed(a): return b - 24",
            "# dfe must be def; bracket is closed; colon is there; b must be a",
        ),
        ("Output of print('river'[-1])?", "r i v e r, the last."),
        ("Output of print('river'[1])?", "0 r, 1 i."),
        ("Output of print(['sun', 'sea', 'sky'][1])?", "0 sun, 1 sea."),
        ("Output of print(max(45, 12, 77) + 5)?", "45 or 12: 45. 45 or 77: 77. 77 + 5 = 82."),
        (
            "Output of print(sorted([5, 77, 12, 40], reverse=True))?",
            "largest 77, left 5, 12, 40; largest 40, left 5, 12; largest 12, left 5; largest 5, left none.",
        ),
        ("Which word is third: water garden tiger house?", "third is 3: 1 water, 2 garden, 3 tiger."),
        ("Which word is last: water garden tiger?", "1 water, 2 garden, 3 tiger, the last."),
        (
            "Plural of cat, box, puppy, foot?",
            "cat takes s: cats. box ends in a hiss, takes es: boxes. puppy turns y to ies: puppies. "
            "foot is irregular: feet.",
        ),
        (
            "Passive voice: Leo followed the gate.",
            "First: the gate. Then: followed becomes was followed. Last: by Leo.",
        ),
        ("Say in Spanish: green, king", "In Spanish green is verde, king is rey."),
        ("As JSON: city Tokyo, age 7", "city is a word, quoted; age is a number, bare."),
        ("Play backwards: D E F", "1 D, 2 E, 3 F. Backwards: 3 F, 2 E, 1 D."),
        ("Who won: Wolves 7, Hawks 11, Lions 12?", "Wolves 7 or Hawks 11: Hawks. Hawks 11 or Lions 12: Lions."),
        (
            "Who won: Bulls 13 and 4, Ravens 10 and 8?",
            "Bulls 13 + 4 = 17. Ravens 10 + 8 = 18. Bulls 17 or Ravens 18: Ravens.",
        ),
        ("In clover - aphid - frog - pike, what is eaten by the frog?", "aphid eats clover, frog eats aphid."),
        ("In clover - aphid - frog - pike, what eats the clover?", "aphid eats clover."),
        (
            "In wheat - locust - toad - heron - falcon, what eats the eater of the locust?",
            "locust eats wheat, toad eats locust, heron eats toad.",
        ),
        ("Which century is 1135 in?", "Full hundreds 11, left 35, 11 + 1 = 12."),
        ("Which century is 1800 in?", "Full hundreds 18, left none."),
        (
            "Which century: 284 years after 1466?",
            "1466 + 200 = 1666, 1666 + 80 = 1746, 1746 + 4 = 1750. Full hundreds 17, left 50, 17 + 1 = 18.",
        ),
        (
            "Name the century of 144 years after 44 BC.",
            "144 - 44 = 100, no year 0: 101. Full hundreds 1, left 1, 1 + 1 = 2.",
        ),
        ("Convert 51.9 km to m.", "1 km is 1000 m: 51.9, 519, 5190, 51900."),
        ("Convert 80 cm to m.", "1 m is 100 cm: 80, 8, 0.8."),
        ("2 m in mm?", "1 m is 100 cm: 2, 20, 200. 1 cm is 10 mm: 2000."),
        ("Give the chemical symbol: silicon, gold", "silicon is Si, gold is Au."),
    ],
)
def test_known_workings(instruction: str, said: str) -> None:
    problem = recognise(instruction)
    assert problem is not None
    assert working(problem) == said
