"""`tapir doctor`: a row for each part, a code at the end."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from flows.commands.diagnosis import Finding
from flows.commands.doctor import findings_json, print_findings
from tests.doubles.provider import FakeProvider
from tests.students import make_checkpoint

ROOT = Path(__file__).parents[3]

FINDINGS = [
    Finding("memory", "ok", "21 GiB available"),
    Finding("store", "warning", "there is none", "the first run makes it"),
    Finding("student environment", "fault", "no [vLLM] there", "run `make student-env`"),
]


def doctor(*words: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, "-m", "flows.cli", "doctor", *words], {**os.environ, "PREFECT_API_URL": ""}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_every_part_is_a_row_with_its_remedy_below() -> None:
    out = io.StringIO()
    print_findings(Console(file=out, width=100), FINDINGS)
    lines = [line.split() for line in out.getvalue().splitlines() if line.strip()]
    assert lines[0][:2] == ["ok", "memory"]
    assert lines[3][:2] == ["fault", "student"]
    assert "[vLLM]" in lines[3]
    assert lines[4] == ["→", "run", "`make", "student-env`"]
    assert lines[-1] == ["faults", "1", "·", "warnings", "1"]


def test_the_findings_are_one_object_for_programs() -> None:
    read = json.loads(findings_json(FINDINGS))
    assert read["faults"] == 1
    assert read["findings"][2]["remedy"] == "run `make student-env`"


def test_a_fault_ends_with_one_and_looking_makes_nothing(tmp_path: Path) -> None:
    backbone = make_checkpoint(tmp_path / "backbone", chat_template__jinja=None)
    place = ["--set", f"run.root={tmp_path}/runs", "--set", f"student.backbone={backbone}"]
    done = doctor("configs/test.toml", *place, "--set", "student.engine.python=.venv-nowhere/bin/python", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    found = {each["part"]: each for each in json.loads(done.stdout)["findings"]}
    assert "make student-env" in found["student environment"]["remedy"]
    assert "student.chat_template" in found["backbone"]["remedy"]
    assert found["storage"]["level"] == "ok"
    assert not (tmp_path / "runs").exists()


def test_overrides_want_a_configuration() -> None:
    done = doctor("--set", "run.rounds=1")
    assert done.returncode == 2
    assert "CONFIG" in done.stderr


def test_where_all_is_well_it_ends_with_nought(tmp_path: Path) -> None:
    with FakeProvider() as student:
        engine = f'student.engine={{ type = "endpoint", base_url = "{student.base_url}" }}'
        done = doctor(
            "configs/test.toml", "--root", str(tmp_path), "--set", engine, "--set", "student.backbone=a/model"
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "faults 0" in done.stdout
