from pathlib import Path

import pytest

from tapir_core.standin.families import FAMILIES, NATURAL_SHARES, recognise

DOCUMENT = Path(__file__).parents[3] / "docs" / "standin.md"


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_documents_row_of_a_family_is_true(name: str) -> None:
    rows = [
        line.strip("|").split(" | ")
        for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
        if f"| `{name}` |" in line
    ]
    assert len(rows) == 1
    task_type, _, _, share, instruction, result = (cell.strip() for cell in rows[0])
    assert (task_type, share) == (FAMILIES[name].task_type, f"{100 * NATURAL_SHARES[name]:g} %")
    problem = recognise(instruction)
    assert problem is not None
    assert (problem.family, problem.level, problem.reference) == (name, 2, result)
