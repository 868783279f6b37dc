"""`tapir smoke` on the real engines, and where one lacks."""

from pathlib import Path

import pytest

from tests.harness.forked import Forked


def smoke(forked: Forked, folder: Path, *more: str) -> tuple[int, str]:
    done = forked.tapir("smoke", *more, folder=folder, environment={"TMPDIR": str(folder), "PREFECT_API_URL": ""})
    return done.returncode, done.stderr + done.stdout


@pytest.mark.operations
def test_a_machine_that_can_do_it_passes_with_a_line_a_stage_and_leaves_nothing(forked: Forked, tmp_path: Path) -> None:
    code, said = smoke(forked, tmp_path)
    assert code == 0, said
    stages = (
        "pool",
        "backbone · answer heldout",
        "S_0 · train",
        "round 1 · judge",
        "round 1 · refine",
        "round 1 · train",
    )
    assert [stage for stage in stages if f"{stage}: " not in said] == []
    assert "PASS: " in said.splitlines()[-1]
    assert list(tmp_path.glob("tapir-smoke-*")) == []


def test_a_machine_without_an_engine_fails_with_the_remedy_and_keeps_the_logs(forked: Forked, tmp_path: Path) -> None:
    code, said = smoke(forked, tmp_path, "--set", "student.engine.python=/none")
    assert code == 1
    [kept] = tmp_path.glob("tapir-smoke-*")
    assert "FAIL after" in said
    assert kept.name in said
    assert "`tapir setup` builds its environment" in said
