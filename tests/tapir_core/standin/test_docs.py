from pathlib import Path

import pytest

from tapir_core.standin.families import FAMILIES, NATURAL_SHARES, recognise

DOCUMENT = Path(__file__).parents[3] / "docs" / "standin.md"


def rows_of(name: str, cells: int) -> list[list[str]]:
    """The rows of a family in the tables of so many columns."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if f"| `{name}` |" in line]
    return [row for row in rows if len(row) == cells]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_documents_row_of_a_family_is_true(name: str) -> None:
    [(task_type, _, share, instruction, result)] = rows_of(name, 5)
    assert (task_type, share) == (FAMILIES[name].task_type, f"{100 * NATURAL_SHARES[name]:g} %")
    problem = recognise(instruction)
    assert problem is not None
    assert (problem.family, problem.level, problem.reference) == (name, 2, result)


def test_the_documents_refined_answers_are_what_the_stand_in_says() -> None:
    shown = {name: row for name in FAMILIES for row in rows_of(name, 3)}
    assert len(shown) == 5
    for name, (_, instruction, working) in shown.items():
        problem = recognise(instruction)
        assert problem is not None
        assert (problem.family, problem.level) == (name, 3)
        assert problem.refined.replace("\n", " ") == f"{working} {problem.plain}"
