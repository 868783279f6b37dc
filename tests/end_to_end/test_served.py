"""A judge that the run serves itself, on real vLLM, in turn with its student."""

import sqlite3
from contextlib import closing

import pytest

from tapir_core.config import EMBEDDED_STUDENT
from tapir_core.stages import StageAt
from tests.end_to_end.project import DEADLINE_SECONDS, Project
from tests.harness.processes import overrides

pytestmark = pytest.mark.operations

JUDGE = {
    "type": "vllm",
    "model": EMBEDDED_STUDENT,
    "dtype": "float32",
    "cpu_kv_cache_gib": "1",
    "max_model_length": "4096",
}


def test_judge_and_student_have_the_machine_in_turn(tmp_path, tiny_students):
    settings = {f"judge.endpoint.{name}": value for name, value in JUDGE.items()}
    settings |= {
        "judge.sampling.max_tokens": "16",
        "judge.reasks": "0",
        "calls.max_failed_share": "1",
        "run.rounds": "1",
        "data.pool.rows": "24",
    }
    settings |= {"basic_tuning.examples": "8", "data.heldout.dev": "4", "data.heldout.test": "4"}
    project = Project(tmp_path, tiny_students[0], settings)
    driver = project.start("mine", *overrides({"calls.rows_per_shard": "8"}), "--until", "judge@1")
    assert driver.wait(DEADLINE_SECONDS) == 0, (tmp_path / "mine.driver.log").read_text()[-3000:]
    for name in ("student", "teacher"):
        log = (tmp_path / "mine" / "logs" / f"{name}.log").read_text()
        assert log.count("Application startup complete") == 1, f"the {name}'s server was not kept"
    run = project.folder("mine")
    assert run.rows(StageAt("judge", 1)).height == 2 * run.rows(StageAt("answer", 1)).height
    with closing(sqlite3.connect(tmp_path / ".tapir" / "store.sqlite")) as store:
        models = store.execute("SELECT DISTINCT model FROM answers WHERE role = 'judge'").fetchall()
    assert models == [(EMBEDDED_STUDENT,)]
