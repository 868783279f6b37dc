import pytest

from tapir_core.standin.families import recognise


@pytest.mark.parametrize(
    ("instruction", "level", "reference", "working"),
    [
        ("What is 5 + 19?", 1, "24", "Ones: 5 + 9 = 14, carry 1. Tens: 1 + 1 = 2."),
        ("67 + 33 = ?", 2, "100", "Ones: 7 + 3 = 10, carry 1. Tens: 6 + 3 + 1 = 10."),
        ("Compute 43 + 57 + 20.", 3, "120", "Ones: 3 + 7 + 0 = 10, carry 1. Tens: 4 + 5 + 2 + 1 = 12."),
        (
            "Add up: 483 + 148",
            4,
            "631",
            "Ones: 3 + 8 = 11, carry 1. Tens: 8 + 4 + 1 = 13, carry 1. Hundreds: 4 + 1 + 1 = 6.",
        ),
        ("Multiply 12 by 12.", 1, "144", "10 x 12 = 120, 2 x 12 = 24, 120 + 24 = 144."),
        ("2 x 96 = ?", 2, "192", "90 x 2 = 180, 6 x 2 = 12, 180 + 12 = 192."),
        (
            "What is 789 times 5?",
            3,
            "3945",
            "700 x 5 = 3500, 80 x 5 = 400, 9 x 5 = 45, 3500 + 400 = 3900, 3900 + 45 = 3945.",
        ),
        ("Work out 54 * 26.", 4, "1404", "50 x 26 = 1300, 4 x 26 = 104, 1300 + 104 = 1404."),
        ("Ann has 5 pens, buys 3, sells 8. How many now?", 2, "0", "buys 3: 5 + 3 = 8, sells 8: 8 - 8 = 0."),
        ("How many hats has Leo? At first 30, then finds 61, loses 22, buys 40.", 4, "109", None),
    ],
)
def test_known_calculations(instruction: str, level: int, reference: str, working: str | None) -> None:
    problem = recognise(instruction)
    assert problem is not None
    assert (problem.level, problem.reference) == (level, reference)
    assert working is None or problem.refined == f"{working}\nAnswer: {reference}"
