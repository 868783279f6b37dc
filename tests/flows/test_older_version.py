"""What a version of tapir does with a run and a store that commit e8df512 made, and what it refuses and why."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from tapir_core.config import load
from tapir_core.errors import ConfigError, RunChanged
from tapir_core.installation import STUDENT_ENVIRONMENT_VARIABLE, interpreter
from tapir_core.paths import RESOLVED_CONFIG
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import STAGES, StageAt, plan
from tasks.runtime import close_all, open_store
from tests.conftest import StandingServer
from tests.harness.processes import REPOSITORY
from tests.students import needs_student_env

OLD = REPOSITORY / "tests" / "data" / "e8df512" / "run.tar.gz"
PROMPTS = OLD.parent / "prompts"
"""What of the shipped prompts was otherwise then."""
RUN = (
    *("run", "config.toml"),
    *("--set", "curriculum.expansion.oversample=1.25"),
    *("--set", "curriculum.refine=true"),
    *("--set", f"run.prompts={PROMPTS}"),
    *("--set", "teacher.endpoint.version=c77237e37faa"),
    *("--set", "judge.endpoint.version=c77237e37faa"),
)
"""The command that made it; what is set was the default then."""
OLD_REQUESTS = {"label": 38, "teach": 38, "answer": 108, "judge": 72, "benchmark": 4, "expand": 6, "refine": 8}
"""What its store says that each role was asked."""
RAISE = """
from dataclasses import replace
from flows.cli import main
from tapir_core.stages import STAGES
for name, version in {versions}.items():
    STAGES[name] = replace(STAGES[name], version=version)
main()
"""


class OldRun(RunFolder):
    """The finished run, unpacked; nothing of it was looked at before."""

    def __init__(self, folder: Path) -> None:
        super().__init__(RunRef("runs", "old"))
        self.home = folder

    @property
    def made_by(self) -> dict[str, int]:
        """Stage → version of its code, of all whose rows are there."""
        whole = {at: self.manifest(at) for at in plan(self.config)}
        return {at.name: manifest.version for at, manifest in whole.items() if manifest is not None}

    def manifests(self) -> dict[str, bytes]:
        folder = self.home / "runs" / "old"
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("manifest.json")}

    def version(self, at: StageAt) -> int:
        manifest = self.manifest(at)
        assert manifest is not None
        return manifest.version

    def engine_was_started(self) -> bool:
        return (self.home / "engine-was-started").exists() or list(self.home.glob("runs/old/logs/train*")) != []


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OldRun]:
    """The run in a folder of its own, which is the working folder; its vLLM only says that it was started."""
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    environment = tmp_path / ".venv-vllm"  # where the run's own configuration looks
    python = interpreter(environment)
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/engine-was-started\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv(STUDENT_ENVIRONMENT_VARIABLE, str(environment))
    monkeypatch.chdir(tmp_path)
    yield OldRun(tmp_path)
    close_all()


@pytest.fixture
def as_made(old: OldRun, monkeypatch: pytest.MonkeyPatch) -> OldRun:
    """The run before a version of tapir that makes every stage as it was made."""
    for name, version in old.made_by.items():
        monkeypatch.setitem(STAGES, name, replace(STAGES[name], version=version))
    return old


@pytest.fixture
def raise_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A version of tapir whose code makes a stage otherwise."""

    def raise_it(name: str) -> None:
        monkeypatch.setitem(STAGES, name, replace(STAGES[name], version=STAGES[name].version + 1))

    return raise_it


def tapir(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def said(*words: str) -> str:
    done = tapir(*words)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.output


def apart(*words: str, raised: Sequence[str] = (), api: str = "") -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, of a version of tapir that makes the ``raised`` stages otherwise.

    All others have the version that they have in this process.
    """
    versions = {name: stage.version + (name in raised) for name, stage in STAGES.items()}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PREFECT_API_URL": api}
    command = [sys.executable, "-c", RAISE.format(versions=versions), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def refused(*words: str) -> str:
    done = tapir(*words)
    assert isinstance(done.exception, ConfigError), done.output
    return str(done.exception)


def test_what_this_version_makes_otherwise_is_told_before_anything_is_redone(old: OldRun) -> None:
    """A change of what a stage makes raises its version, and the next start of a finished run says so."""
    before = old.manifests()
    message = refused(*RUN)
    otherwise = [name for name, version in old.made_by.items() if version != STAGES[name].version]
    assert {"select", "expand", "refine", "mix"} <= {*otherwise}
    for name in otherwise:
        assert f"{name} (version {old.made_by[name]}, here {STAGES[name].version})" in message
    assert "trainings" in message
    assert "another configuration" not in message
    assert old.manifests() == before
    assert "nothing left to do" not in said("status", "old")


def test_the_same_command_resumes_without_a_call_or_a_training(as_made: OldRun) -> None:
    old = as_made
    before = old.manifests()
    done = apart(*RUN)
    assert "run old has nothing left to do" in done.stderr
    assert "2 of 2 rounds trained" in done.stdout
    assert old.manifests() == before
    assert not old.engine_was_started()
    assert not (old.home / "runs" / ".tapir" / "prefect").exists()


def test_answers_of_the_old_store_are_asked_of_nobody(old: OldRun, standing_prefect: StandingServer) -> None:
    """What a deleted folder held is made again from the store, without an engine."""
    answers, scores = StageAt("answer_heldout", 0), StageAt("evaluate", 0)
    rows = old.rows(answers)
    for at in (answers, scores):
        old.storage.remove(at.folder)
    assert "Held-out accuracy" in apart("evaluate", "old", "--round", "0", api=standing_prefect.api).stdout
    assert old.rows(answers).equals(rows)
    made = old.manifest(answers)
    assert made is not None
    assert (made.counts.get("calls", 0), made.counts["stored"]) == (0, rows.height)
    assert not old.engine_was_started()


def test_what_the_run_had_spent_by_its_name_is_spent_by_its_id(old: OldRun) -> None:
    for _ in range(2):
        with open_store(old) as store:
            spent = store.spend_by_role(old.record.id)
            assert {role: each.requests for role, each in spent.items() if each.requests} == OLD_REQUESTS
            assert store.spend_by_role("old") == {}


def test_a_run_with_a_raised_stage_version_is_refused_with_the_list_the_cost_and_the_ways_out(
    as_made: OldRun, raise_version: Callable[[str], None]
) -> None:
    old = as_made
    raise_version("select")
    before = old.manifests()
    message = refused(*RUN)
    assert "by an older version of tapir; this one makes these stages otherwise: select (version 2, here 3)" in message
    listed = re.findall(r"^    (.+)$", message, re.MULTILINE)
    assert "select (round 1): 10 rows" in listed
    assert [each for each in listed if "training" in each] == [
        "train (round 1): a training",
        "train (round 2): a training",
    ]
    assert not [each for each in listed if "round 0" in each or each.startswith(("pool", "label", "judge (round 1)"))]
    calls = sum(int(each) for each in re.findall(r"up to (\d+) calls$", message, re.MULTILINE))
    assert f"In all up to {calls} calls and 2 trainings" in message
    assert calls > 40
    for way in ("go on with the version of tapir that made it", "--name", "--amend"):
        assert way in message
    assert "another configuration" not in message
    assert old.manifests() == before
    assert isinstance(tapir("retry-judge", "old", "--continue").exception, RunChanged)


@pytest.mark.usefixtures("as_made")
def test_another_setting_and_another_version_are_both_named(raise_version: Callable[[str], None]) -> None:
    raise_version("mix")
    message = refused(*RUN, "--set", "judge.sampling.max_tokens=9")
    assert "mix (version 2, here 3)" in message
    assert "was made with another configuration" in message
    assert "restore the old files and settings" in message


@pytest.mark.usefixtures("as_made")
def test_what_a_newer_version_made_is_refused_by_an_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "mix", replace(STAGES["mix"], version=1))
    assert "was made by another version of tapir" in refused(*RUN)


def test_amend_redoes_what_is_made_otherwise_and_keeps_what_comes_out_the_same(
    as_made: OldRun, standing_prefect: StandingServer
) -> None:
    old = as_made
    before, seeds = old.manifests(), old.rows(StageAt("select", 1))
    apart(*RUN, "--amend", raised=["select"], api=standing_prefect.api)
    assert [old.version(StageAt("select", number)) for number in (1, 2)] == [3, 3]
    assert old.rows(StageAt("select", 1)).equals(seeds)
    changed = {name for name, content in old.manifests().items() if before[name] != content}
    assert changed == {f"{StageAt('select', number).folder}/manifest.json" for number in (1, 2)}
    assert all(old.holds(at) for at in plan(old.config))
    assert not old.engine_was_started()
    assert "nothing left to do" in apart(*RUN, raised=["select"]).stderr


def test_what_other_versions_made_is_shown_exported_and_evaluated_as_ever(
    old: OldRun, raise_version: Callable[[str], None]
) -> None:
    commands = [
        ("evaluate", "old", "--benchmark", "vicuna"),  # writes the configuration as this version does
        ("status",),
        ("status", "old"),
        ("report", "old"),
        ("export", "old", "--round", "2", "--to", "exported"),
    ]
    by_its_own = [said(*words) for words in commands]
    exported = {file.name: file.read_bytes() for file in (old.home / "exported").iterdir()}
    shutil.rmtree(old.home / "exported")
    for name in STAGES:
        raise_version(name)
    before = old.manifests()
    assert [said(*words) for words in commands] == by_its_own
    assert {file.name: file.read_bytes() for file in (old.home / "exported").iterdir()} == exported
    assert old.manifests() == before


def test_an_evaluation_makes_what_is_missing_by_its_own_version_and_nothing_else(
    old: OldRun, standing_prefect: StandingServer
) -> None:
    old.storage.remove(StageAt("evaluate", 1).folder)
    before = old.manifests()
    apart("evaluate", "old", "--round", "1", raised=["select", "evaluate"], api=standing_prefect.api)
    assert [old.version(StageAt("evaluate", number)) for number in (0, 1, 2)] == [2, 3, 2]
    assert before.items() <= old.manifests().items()
    assert all(old.holds(at) for at in plan(old.config))


def test_a_shipped_prompt_that_changed_is_told_of_a_run_and_keeps_no_evaluation_from_it(old: OldRun) -> None:
    before = old.manifests()
    assert "Other than before: prompt:expand" in refused("run", "config.toml")
    said("evaluate", "old")
    assert old.manifests() == before
    assert all(old.holds(at) for at in plan(old.config))


def test_a_renamed_field_breaks_no_command_of_an_old_run(old: OldRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old name is made up, for no field was renamed so far: the door is the one that a renaming takes."""

    def rename(table: load.Table) -> None:
        calls = table.get("calls", {})
        if "parallel" in calls:
            calls["concurrency"] = calls.pop("parallel")

    file = old.home / "runs" / "old" / RESOLVED_CONFIG
    table = json.loads(file.read_text())
    table["calls"]["parallel"] = table["calls"].pop("concurrency")
    file.write_text(json.dumps(table))
    assert "calls.parallel: unknown field" in refused("status", "old")
    monkeypatch.setattr(load, "TRANSLATIONS", [*load.TRANSLATIONS, rename])
    said("status", "old")
    said("export", "old", "--to", "exported")
    said("evaluate", "old")
    written = json.loads(file.read_text())
    assert written["version"] == 1 + len(load.TRANSLATIONS)
    assert "parallel" not in written["calls"]
    said("status", "old")


@needs_student_env
@pytest.mark.slow
def test_a_student_that_other_versions_made_answers(old: OldRun) -> None:
    shutil.rmtree(old.home / ".venv-vllm")
    (old.home / ".venv-vllm").symlink_to(REPOSITORY / ".venv-vllm")
    assert "S_2 of run old" in apart("ask", "old", "What is 1 + 1?", raised=["select", "train"]).stderr
