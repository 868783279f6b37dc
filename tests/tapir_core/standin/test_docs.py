import re
from pathlib import Path

import pytest

from tapir_core.standin.families import FAMILIES, NATURAL_SHARES, recognise
from tapir_core.standin.faults import FAULT_KINDS, Faults, Window, read_faults

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


def test_the_document_has_a_row_for_every_fault_and_its_specs_and_its_file_can_be_read(tmp_path: Path) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    faults = text.split("## Faults")[1].split("\n## ")[0]
    assert [name for name in re.findall(r"^\| `(\w+)` \|", faults, re.MULTILINE) if name in FAULT_KINDS] == [
        *FAULT_KINDS
    ]
    specs = re.findall(r'--faults "(.+)"', faults)
    assert len(specs) == 2
    assert all(read_faults(spec) for spec in specs)
    (file_text,) = re.findall(r"```toml\n(.+?)```", faults, re.DOTALL)
    path = tmp_path / "faults.toml"
    path.write_text(file_text, encoding="utf-8")
    windows = (Window("500", 60, 90, 0.5),)
    assert read_faults(str(path)) == Faults({"429": 0.1, "hang": 0.02}, windows, retry_after_as="date")
