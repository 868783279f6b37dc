"""`tapir doctor`: a row for each part, a code at the end."""

import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from flows.commands.diagnosis.checks import Finding
from flows.commands.diagnosis.command import findings_json, print_findings
from tapir_core.speeds import known_speeds
from tests.doubles.provider import FakeProvider, Text
from tests.doubles.shapes import SHAPES
from tests.harness.forked import Ended, Forked
from tests.students import make_checkpoint, make_tokenized

FINDINGS = [
    Finding("memory", "ok", "21 GiB available"),
    Finding("store", "warning", "there is none", "the first run makes it"),
    Finding("student environment", "fault", "no [vLLM] there", "run `make student-env`"),
]


@pytest.fixture
def doctor(forked: Forked) -> Callable[..., Ended]:
    return partial(forked.tapir, "doctor", environment={"PREFECT_API_URL": ""})


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


def test_a_fault_ends_with_one_and_looking_makes_nothing(tmp_path: Path, doctor: Callable[..., Ended]) -> None:
    backbone = make_checkpoint(tmp_path / "backbone", chat_template__jinja=None)
    place = ["--set", f"run.root={tmp_path}/runs", "--set", f"student.backbone={backbone}"]
    done = doctor("configs/test.toml", *place, "--set", "student.engine.python=.venv-nowhere/bin/python", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    found = {each["part"]: each for each in json.loads(done.stdout)["findings"]}
    assert "tapir setup" in found["student environment"]["remedy"]
    assert "student.chat_template" in found["backbone"]["remedy"]
    assert found["storage"]["level"] == "ok"
    assert not (tmp_path / "runs").exists()


def test_overrides_want_a_configuration(doctor: Callable[..., Ended]) -> None:
    done = doctor("--set", "run.rounds=1")
    assert done.returncode == 2
    assert "CONFIG" in done.stderr


def test_where_all_is_well_it_ends_with_nought(tmp_path: Path, doctor: Callable[..., Ended]) -> None:
    with FakeProvider() as student:
        engine = f'student.engine={{ type = "endpoint", base_url = "{student.base_url}" }}'
        done = doctor(
            "configs/test.toml", "--root", str(tmp_path), "--set", engine, "--set", "student.backbone=a/model"
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "faults 0" in done.stdout


def write_config(folder: Path, provider: FakeProvider) -> str:
    """The smallest one for a provider: no identity, no judge, and nothing that could serve a student."""
    file = folder / "mine.toml"
    endpoint = f'type = "openai"\nmodel = "a-teacher"\nbase_url = "{provider.base_url}"\napi_key_env = ""\n'
    pool = '[data.pool]\ntype = "standin"\nrows = 20\n[student.engine]\npython = "no/python"\n'
    file.write_text(
        f'curriculum.refine = true\n[run]\nname = "mine"\nroot = "{folder}"\n{pool}[teacher.endpoint]\n{endpoint}'
    )
    return str(file)


def test_one_request_in_each_role_is_shown_with_what_is_read_of_it(
    tmp_path: Path, doctor: Callable[..., Ended]
) -> None:
    with FakeProvider(SHAPES["openai_reasoning"], probed=True) as provider:
        found = doctor(write_config(tmp_path, provider), "--try")
    assert found.returncode == 0, found.stderr
    said = " ".join(found.stdout.split())
    assert "'max_tokens' is not supported with this model" in said
    for role in ("label", "teach", "expand", "refine"):
        assert f"{role} · teacher.endpoint" in said
    assert "judge · judge.endpoint" in said
    assert re.search(r"read score_1 [\d.]+, score_2 [\d.]+", said)
    kept = [each.name for each in tmp_path.rglob("*") if each.is_file()]
    assert sorted(kept) == ["mine.toml", "speeds.json"], "nothing else is kept"


def test_how_many_replies_a_local_server_works_at_is_kept(tmp_path: Path, doctor: Callable[..., Ended]) -> None:
    with FakeProvider(latency_seconds=0.5, works_at=2) as provider:
        found = doctor(write_config(tmp_path, provider), "--try")
    assert "`tapir estimate` counts with it" in found.stdout
    (speed,) = known_speeds(str(tmp_path)).values()
    assert speed.first_seconds >= 0.5
    assert speed.at_once is not None
    assert 1 <= speed.at_once < 6


def test_a_role_whose_reply_cannot_be_read_is_a_fault(tmp_path: Path, doctor: Callable[..., Ended]) -> None:
    with FakeProvider(lambda _: Text("I would rather not say.")) as provider:
        found = doctor(write_config(tmp_path, provider), "--try")
    assert found.returncode == 1
    assert "fault cannot be read:" in " ".join(found.stdout.split())


def test_a_pair_of_models_is_compared_without_a_configuration(tmp_path: Path, doctor: Callable[..., Ended]) -> None:
    one, same, other = (str(make_tokenized(tmp_path / name)) for name in ("one", "same", "other"))
    make_tokenized(Path(other), "<tool>")
    fits, differs = doctor("--pair", one, same), doctor("--pair", one, other)
    assert (fits.returncode, differs.returncode) == (0, 1)
    assert "faults 0" in fits.stdout
    assert "'<tool>' is no token for the teacher" in " ".join(differs.stdout.split())
    nowhere = doctor("--pair", one, "an/other")
    assert nowhere.returncode == 2
    assert "it is not on this machine" in " ".join(nowhere.stderr.split())
    for words in (["--pair", one, same, "mine.toml"], ["--chat-template", "chatml"]):
        assert doctor(*words).returncode == 2
