import random
import re

import pytest

from tapir_core.standin.families import FAMILIES, recognise
from tapir_core.standin.family import LEVELS, Problem


def problems(name: str) -> list[Problem]:
    rng = random.Random(13)
    return [FAMILIES[name].draw_problem(level, rng) for level in LEVELS for _ in range(40)]


def carry_out(wish: str, x: float) -> float:
    """An independent reading of a wish: its verbs, one after the other."""
    if " if x is even, else " in wish:
        wish = wish.split(" if x is even, else ")[int(x) % 2]
    for verb, number in re.findall(r"(adds|subtracts|multiplies|divides)\D+(\d+)", wish):
        amount = int(number)
        x = {"adds": x + amount, "subtracts": x - amount, "multiplies": x * amount, "divides": x / amount}[verb]
    return x


@pytest.mark.parametrize(
    ("instruction", "level", "reference"),
    [
        ("Give a lambda which adds 97 to x.", 1, "lambda x: x + 97"),
        ("Python lambda that multiplies x by 89, then adds 27?", 2, "lambda x: x * 89 + 27"),
        ("Python lambda that subtracts 5 from x, then multiplies by 6?", 3, "lambda x: (x - 5) * 6"),
        ("Debug: def price(n) return n + 14", 1, "def price(n): return n + 14"),
        ("Debug: def speed(a) reutrn a - 24", 5, "def speed(a): return a - 24"),
        ("Output of print(['a', 'b', 'c'][2])?", 2, "c"),
        ("Output of print('river'[-1])?", 3, "r"),
    ],
)
def test_known_lines_of_python(instruction: str, level: int, reference: str) -> None:
    problem = recognise(instruction)
    assert problem is not None
    assert (problem.level, problem.reference) == (level, reference)


def test_a_lambda_does_what_was_wished() -> None:
    for problem in problems("lambda"):
        function = eval(problem.reference)
        assert [function(x) for x in (4, 7)] == [carry_out(problem.instruction, x) for x in (4, 7)]


def test_a_mended_line_runs_and_the_broken_one_does_not() -> None:
    for problem in problems("mend"):
        broken = re.split(r"Fix this Python: |Debug: |Correct the error: ", problem.instruction)[1]
        mended: dict[str, object] = {}
        exec(problem.reference, mended)
        name = problem.reference.split("(")[0].removeprefix("def ")
        assert isinstance(mended[name](3), int)  # type: ignore[operator]
        with pytest.raises((SyntaxError, NameError)):
            exec(f"{broken}\n{name}(3)", {})


def test_python_prints_what_the_reference_says(capsys: pytest.CaptureFixture[str]) -> None:
    for problem in problems("print"):
        match = re.search(r"print\(.+\)", problem.instruction)
        assert match is not None
        exec(match[0], {})
        assert capsys.readouterr().out.strip() == problem.reference
