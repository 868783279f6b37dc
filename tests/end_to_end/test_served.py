"""A judge that the run serves itself, on real vLLM, in turn with its student."""

import sqlite3
import time
from contextlib import closing

import psutil
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


def served_below(driver):
    """Models that servers below a process answer with now."""
    names = set()
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "--served-model-name" in words:
            names.add(words[words.index("--served-model-name") + 1])
    return frozenset(names)


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
    driver, seen = project.start("mine", *overrides({"calls.rows_per_shard": "8"}), "--until", "judge@1"), [frozenset()]
    deadline = time.monotonic() + DEADLINE_SECONDS
    while driver.poll() is None and time.monotonic() < deadline:
        if (now := served_below(driver)) != seen[-1]:
            seen.append(now)
        time.sleep(0.2)
    assert driver.wait(1) == 0, (tmp_path / "mine.driver.log").read_text()[-3000:]
    in_turn = [names for names in seen if names]
    assert max(map(len, in_turn)) == 1, "both were there at once"
    assert in_turn[-1] == {EMBEDDED_STUDENT}
    assert in_turn.count({EMBEDDED_STUDENT}) == 1, "shards took the machine from each other"
    run = project.folder("mine")
    assert run.rows(StageAt("judge", 1)).height == 2 * run.rows(StageAt("answer", 1)).height
    with closing(sqlite3.connect(tmp_path / ".tapir" / "store.sqlite")) as store:
        models = store.execute("SELECT DISTINCT model FROM answers WHERE role = 'judge'").fetchall()
    assert models == [(EMBEDDED_STUDENT,)]
