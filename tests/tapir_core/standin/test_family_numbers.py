import random
import re

import pytest

from tapir_core.standin.families import FAMILIES, recognise
from tapir_core.standin.family import LEVELS


@pytest.mark.parametrize(
    ("instruction", "level", "reference", "working"),
    [
        ("What is 5 + 19?", 1, "24", "5 + 19 = 24."),
        ("67 + 33 = ?", 2, "100", "60 + 30 = 90, 7 + 3 = 10, 90 + 10 = 100."),
        ("Compute 43 + 57 + 20.", 3, "120", "43 + 57 = 100, 100 + 20 = 120."),
        ("Add up: 483 + 148", 4, "631", "400 + 100 = 500, 83 + 48 = 131, 500 + 131 = 631."),
        ("Multiply 12 by 12.", 1, "144", "12 groups of 12 make 144."),
        ("2 x 96 = ?", 2, "192", "90 x 2 = 180, 6 x 2 = 12, 180 + 12 = 192."),
        ("What is 789 times 5?", 3, "3945", "700 x 5 = 3500, 89 x 5 = 445, 3500 + 445 = 3945."),
        ("Work out 54 * 26.", 4, "1404", "20 x 54 = 1080, 6 x 54 = 324, 1080 + 324 = 1404."),
        ("Ann has 5 pens, buys 3, sells 8. How many now?", 2, "0", "5 + 3 = 8, 8 - 8 = 0."),
        ("How many hats has Leo? At first 30, then finds 61, loses 22, buys 40.", 4, "109", None),
    ],
)
def test_known_calculations(instruction: str, level: int, reference: str, working: str | None) -> None:
    problem = recognise(instruction)
    assert problem is not None
    assert (problem.level, problem.reference) == (level, reference)
    assert working is None or problem.refined == f"{working}\nAnswer: {reference}"


@pytest.mark.parametrize("name", ["sum", "product", "stock"])
def test_every_line_of_a_working_is_true_and_the_last_one_gives_the_result(name: str) -> None:
    rng = random.Random(11)
    for level in LEVELS:
        for _ in range(40):
            problem = FAMILIES[name].draw_problem(level, rng)
            lines = re.findall(r"(\d+) ([-+x]) (\d+) = (\d+)", problem.refined)
            for one, sign, other, result in lines:
                value = {"+": int(one) + int(other), "-": int(one) - int(other), "x": int(one) * int(other)}[sign]
                assert value == int(result)
            assert not lines or lines[-1][3] == problem.reference
