"""All three benchmarks asked of a student on real vLLM by a judge that fails now and then, and killed twice."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tapir_core.paths import BACKBONE
from tapir_core.stages import StageAt
from tests.doubles.standin import StandinServer
from tests.end_to_end.project import DEADLINE_SECONDS, Project
from tests.harness.processes import REPOSITORY, kill, left_over, tapir
from tests.harness.stand_ins import RequestLog, endpoint
from tests.waiting import wait_until

# `tests/flows/test_benchmarks_disturbed.py` kills and fails the same, without vLLM.
pytestmark = pytest.mark.operations

SAMPLES = "configs/benchmarks"
BENCHMARKS = {
    "ae": f'questions = "{SAMPLES}/alpaca_eval.json", baseline = "{SAMPLES}/alpaca_eval_baseline.json", '
    'type = "alpaca_eval"',
    "mt": f'questions = "{SAMPLES}/mt_bench_question.jsonl", references = "{SAMPLES}/mt_bench_reference.jsonl", '
    'max_tokens = 16, type = "mt_bench"',
    "vi": f'questions = "{SAMPLES}/vicuna_question.jsonl", baseline = "{SAMPLES}/vicuna_baseline.jsonl", '
    'max_tokens = 16, type = "vicuna"',
}
ASKED = {"mt": (40, 40), "ae": (20, 20), "vi": (20, 40)}
"""Answers and judgments of each, in the order in which they are asked."""
FAULTS = "filter=0.1,429=0.04,500=0.04,reset=0.02,retry_after_seconds=0"
"""One call in ten fails for good and one more at first."""
CONCURRENCY = 4
HELDOUT = 40
"""Held-out answers, which come before those of benchmarks."""


def kill_amid(command: list[str], log: Path, moment: Callable[[], bool]) -> None:
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output)
        wait_until(moment, seconds=DEADLINE_SECONDS, every=0.02, alive=process)
        assert left_over(kill(process)) == []


def test_the_untouched_backbone_is_asked_nothing_again_though_the_judge_fails_and_kills_come_amid_both_sides_answers(
    tmp_path, tiny_students, standing_prefect, monkeypatch
):
    monkeypatch.setenv("PREFECT_API_URL", standing_prefect.api)
    monkeypatch.setenv("COLUMNS", "200")  # a table whose cells are whole
    log = RequestLog(tmp_path / "judge.jsonl")
    with StandinServer(faults=FAULTS, latency_ms=100, log_path=log.path) as server:
        settings = {
            f"evaluation.benchmarks.{name}": f"{{ {table}, max_failed_share = 0.5 }}"
            for name, table in BENCHMARKS.items()
        }
        settings |= {
            "evaluation.decontamination.max_rouge_l": "1.0",
            "judge.endpoint": endpoint(server.base_url, "standin-judge"),
            "calls.concurrency": str(CONCURRENCY),
            "student.engine.concurrency": "2",  # slow enough to be caught at work
            "calls.backoff_seconds": "0.01",
        }
        project = Project(tmp_path, tiny_students[0], settings, prefect_api=standing_prefect.api)
        project.run("asked", "--until", "pool")
        command = tapir("evaluate", str(tmp_path / "asked"), "--round", "backbone", "--benchmark", ",".join(ASKED))
        killed = tmp_path / "killed.log"
        kill_amid(command, killed, lambda: project.stored("answer") >= HELDOUT + 6)
        answered = project.stored("answer")
        assert answered < HELDOUT + ASKED["mt"][0], "it was killed too late to show anything"
        # All have answered but the judge, who is at the last benchmark.
        kill_amid(command, killed, lambda: project.stored("benchmark") >= 40 + 20 + 8)
        assert project.stored("benchmark") < 40 + 20 + 40, "it was killed too late to show anything"
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for words in ("win rate, %", "rating, 1–10", "relative quality, %", "Held-out accuracy"):
        assert words in done.stdout
    run = project.folder("asked")
    failed = 0
    for name, (turns, judged) in ASKED.items():
        at = StageAt("benchmark_answers", BACKBONE, benchmark=name)
        assert run.rows(at)["response"].drop_nulls().len() == turns
        answered += run.manifest(at).counts["calls"]
        replies = run.rows(StageAt("benchmark_replies", BACKBONE, benchmark=name))
        assert replies.height == judged
        scores = run.rows(StageAt("benchmark_scores", BACKBONE, benchmark=name)).filter(category="all")
        assert scores["value"].null_count() == 0
        of_benchmark = replies.filter(status="failed").height
        assert (scores["n_failed"].max() > 0) == (of_benchmark > 0)
        failed += of_benchmark
    assert failed == log.filtered() > 0
    assert re.search(r"\), \d+ failed", done.stdout)
    assert answered == project.stored("answer"), "each answer was asked of the student once, those before the kill too"
    # What was in flight at the second kill was answered to nobody; nothing had to be asked of the student any more.
    assert log.answered_again() <= CONCURRENCY
    assert run.storage.read_bytes("logs/student.log").decode().count("Application startup complete") == 2
