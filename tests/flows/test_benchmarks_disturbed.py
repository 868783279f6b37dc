"""Every benchmark, asked of a student and a judge that fail now and then, and killed midway.

One call in ten fails for good and one more fails at first, at the student's side as at the judge's: a benchmark comes
to its end and its figures say how much failed. ``kill -9`` comes while the student answers or while the judge works:
the same command again asks nobody for what was received.
"""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl
import pytest

from flows.distill import evaluate_students
from tapir_core.run_folder import RunFolder
from tapir_core.stages import benchmark_stages
from tapir_core.standin.families import recognise
from tasks.runtime import close_all
from tests.benchmark_runs import ALPACA, MT_BENCH, MT_BENCH_ANSWERS, QUESTIONS, SAMPLES, VICUNA, judge, make_run
from tests.conftest import StandingServer
from tests.doubles.faults import FaultScript, read_faults
from tests.doubles.lm_eval import make_fake_harness
from tests.doubles.provider import Drop, FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.doubles.standin import StandinServer
from tests.end_to_end.project import Project
from tests.harness.processes import REPOSITORY, kill, tapir
from tests.harness.stand_ins import RequestLog
from tests.students import needs_harness
from tests.waiting import wait_until

FAULTS = "filter=0.1,429=0.04,500=0.04,reset=0.02,retry_after_seconds=0"
CONCURRENCY = 4
LATENCY_MS = 200


class Case(NamedTuple):
    """A benchmark as it is asked here."""

    settings: dict[str, Any]
    figure: str
    """Its headline."""
    killed_amid: Literal["answer", "benchmark"]
    """The role whose calls a kill interrupts: the student's answers or the judge's replies."""
    counted: tuple[str, ...] = ("question_id",)
    """What its headline counts: questions, or their turns."""
    who: int | str = 0


TURNS = ("question_id", "turn")
IFEVAL = {
    "type": "lm_eval",
    "task": "ifeval",
    "questions": str(SAMPLES / "ifeval.jsonl"),
    "python": str(REPOSITORY / ".venv-lm-eval" / "bin" / "python"),
}
CASES = [
    pytest.param(Case(ALPACA, "win_rate", "benchmark"), id="alpaca_eval"),
    pytest.param(Case(MT_BENCH, "rating", "answer", TURNS), id="mt_bench"),
    pytest.param(
        Case({**MT_BENCH, "outputs": {"gpt": MT_BENCH_ANSWERS}}, "rating", "benchmark", TURNS, "gpt"),
        id="mt_bench-outputs",
    ),
    pytest.param(Case(VICUNA, "relative_quality", "answer"), id="vicuna"),
    pytest.param(Case({"type": "lm_eval", "task": "numbers"}, "exact", "answer"), id="lm_eval-fake"),
]
KILLED = [
    CASES[0],
    *(pytest.param(*each.values, id=each.id, marks=pytest.mark.operations) for each in (CASES[1], CASES[4])),
]
"""At the judge, at the student, who answers in turns, and at another judge than ours; the others go the same ways."""
REAL_HARNESS = pytest.param(
    Case(IFEVAL, "prompt_level_strict_acc", "answer"),
    id="lm_eval-ifeval",
    marks=[pytest.mark.slow, pytest.mark.lm_eval, needs_harness],
)


class FaultyStudent:
    """Answers the stand-in's instructions, says the last word of others, and fails as `FAULTS` say.

    It answers in words that no baseline has: where both say the same, one reply of the judge counts for both orders.
    """

    def __init__(self) -> None:
        self._faults = FaultScript(read_faults(FAULTS))
        self.replied: Counter[str] = Counter()
        """How often each conversation was answered or refused."""
        self.refused: set[str] = set()
        """Conversations that were refused the last time."""

    def __call__(self, call: RecordedCall) -> FakeReply:
        asked = json.dumps(call.body["messages"])
        fault = self._faults.next_fault(asked.encode())
        if fault == "429":
            return Status(429, {"error": {"message": "Slow down."}}, {"Retry-After": "0"})
        if fault == "500":
            return Status(500, {"error": {"message": "It hurts."}})
        if fault == "reset":
            return Drop()
        self.replied[asked] += 1
        self.refused.discard(asked)
        if fault == "filter":
            self.refused.add(asked)
            return Text(None, finish_reason="content_filter")
        problem = recognise(call.prompt)
        return Text(call.prompt.split()[-1] if problem is None else f"Here it is.\n{problem.plain}")

    @property
    def replied_again(self) -> int:
        """Replies beyond the first to the same conversation."""
        return sum(self.replied.values()) - len(self.replied)


class Ground(NamedTuple):
    """A run with the benchmark `it`, its student and its judge."""

    run: RunFolder
    student: FaultyStudent
    log: RequestLog
    """The judge's."""

    def asked(self) -> tuple[int, int]:
        """Calls that were answered or refused, by student and judge."""
        return sum(self.student.replied.values()), len(self.log.answered())


@pytest.fixture
def student() -> Iterator[FakeProvider]:
    with FakeProvider(FaultyStudent(), latency_seconds=LATENCY_MS / 1000) as provider:
        yield provider
        close_all()


@pytest.fixture
def ground(tmp_path: Path, backbone: Path, student: FakeProvider, case: Case) -> Iterator[Ground]:
    settings, log = {**case.settings, "max_failed_share": 0.5}, RequestLog(tmp_path / "judge.jsonl")
    if settings.get("task") == "numbers":
        rows = ({"prompt": f"Which number is this: {number}", "answer": str(number)} for number in range(QUESTIONS))
        questions = tmp_path / "questions.jsonl"
        questions.write_text("\n".join(map(json.dumps, rows)))
        settings |= {"questions": str(questions), "python": str(make_fake_harness(tmp_path))}
    with StandinServer(faults=FAULTS, latency_ms=LATENCY_MS, log_path=log.path) as server:
        if settings["type"] != "lm_eval":
            settings["judge"] = judge(server)
        run = make_run(tmp_path, backbone, student, concurrency=CONCURRENCY, it=settings)
        assert isinstance(student.script, FaultyStudent)
        yield Ground(run, student.script, log)


def check_figures(ground: Ground, case: Case) -> int:
    """Every failure that was injected for good is in the headline's count, and no other; gives that count."""
    answers, replies, scores = (ground.run.rows(at) for at in benchmark_stages("it", case.who))
    unanswered, unjudged = len(ground.student.refused), ground.log.filtered()
    assert unanswered + unjudged > 0, "nothing failed for good: give the faults another seed"
    assert answers["response"].null_count() == unanswered
    failed = replies.filter(pl.col("status") == "failed", ~pl.col("reason").str.contains("no answer"))
    assert failed.height == unjudged

    units = replies.group_by(case.counted).agg(failed=(pl.col("status") == "failed").any())
    [headline] = scores.filter(category="all", metric=case.figure).to_dicts()
    assert headline["n_failed"] == units["failed"].sum() > 0
    assert headline["n"] + headline["n_failed"] == units.height
    assert headline["value"] is not None
    return int(headline["n_failed"])


def remove_stages(ground: Ground, case: Case) -> None:
    for at in benchmark_stages("it", case.who):
        ground.run.storage.remove(at.folder)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("case", CASES)
def test_calls_that_fail_end_no_benchmark_and_what_failed_for_good_is_counted_and_not_asked_again(
    ground: Ground, case: Case
) -> None:
    evaluate_students(ground.run.ref, [case.who], ["it"])
    n_failed, asked = check_figures(ground, case), ground.asked()
    remove_stages(ground, case)
    evaluate_students(ground.run.ref, [case.who], ["it"])
    assert check_figures(ground, case) == n_failed
    assert ground.asked() == asked, "the store has what was answered and what was refused"
    assert ground.student.replied_again + ground.log.answered_again() == 0


@pytest.mark.parametrize("case", [*KILLED, REAL_HARNESS])
def test_a_killed_evaluation_goes_on_and_pays_for_nothing_twice(
    tmp_path: Path, backbone: Path, ground: Ground, case: Case, standing_prefect: StandingServer
) -> None:
    which = "outputs" if case.who == "gpt" else str(case.who)
    command = tapir("evaluate", str(tmp_path / "asked"), "--round", which, "--benchmark", "it")
    environment = {**os.environ, "PREFECT_API_URL": standing_prefect.api, "COLUMNS": "200"}
    project = Project(tmp_path, backbone)
    with (tmp_path / "first.log").open("wb") as output:
        first = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output)
        wait_until(lambda: project.stored(case.killed_amid) >= 6, seconds=120, every=0.02, alive=first)
        kill(first)
    stored, received = project.stored(case.killed_amid), ground.asked()
    assert stored < QUESTIONS, "it was killed too late to show anything"
    again = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr[-2000:]
    assert f", {check_figures(ground, case)} failed" in " ".join(again.stdout.split())
    assert sum(ground.asked()) > sum(received)
    # What was in flight at the kill was answered to nobody.
    assert ground.student.replied_again <= CONCURRENCY
    assert ground.log.answered_again() <= CONCURRENCY
