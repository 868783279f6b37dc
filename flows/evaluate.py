"""Held-out evaluation: of one student as part of a run, and of the students of a run on their own (flow *evaluate*).

Scores that stand are not made again. Limits: the run's own held-out set; benchmarks from outside are not asked here.
"""

from collections.abc import Sequence

from prefect import tags

from flows.running.live_spend import live_spend
from flows.running.project_flow import project_flow
from flows.steps import run_shards, run_stage
from tapir_core.reporting.formats import student_name
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks.answer import answer_heldout_shard, heldout_rows
from tasks.artifacts import publish_scores
from tasks.evaluate import evaluate
from tasks.pool import heldout

__all__ = ["evaluate_student", "evaluate_students"]


def evaluate_student(ref: RunRef, number: int) -> None:
    """Score the student after round ``number``; nothing happens in a run without a held-out set."""
    run = RunFolder(ref)
    if run.config.data.heldout is None:
        return
    at = StageAt("answer_heldout", number)
    run_shards(ref, at, answer_heldout_shard, heldout_rows(run, at).height)
    run_stage(ref, evaluate, number)


@project_flow("evaluate", run_name="{ref.name}")
def evaluate_students(ref: RunRef, numbers: Sequence[int]) -> None:
    """Score these students where their scores do not stand, and show the scores of all of them."""
    stages = [StageAt(name, number) for number in numbers for name in ("answer_heldout", "evaluate")]
    with live_spend(ref, stages):
        run_stage(ref, heldout)
        for number in numbers:
            with tags(f"round-{number}" if number >= 0 else student_name(number)):
                evaluate_student(ref, number)
    publish_scores(ref, numbers)
