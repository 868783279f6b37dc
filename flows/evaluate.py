"""Evaluation: of one student as part of a run, and of the students of a run on their own (flow *evaluate*).

Models whose outputs to a benchmark are files stand beside the students.

Held-out set first, then benchmarks, while the same student is served. Scores that stand are not made again.
"""

from collections.abc import Sequence

from prefect import tags

from flows.benchmarks import ask_benchmark, read_benchmark
from flows.running.live_spend import live_spend
from flows.running.project_flow import project_flow
from flows.steps import run_shards, run_stage
from tapir_core.reporting.formats import student_name
from tapir_core.reporting.students import models_of, scoring_stages
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import Compared, StageAt
from tasks.answer import answer_heldout_shard
from tasks.artifacts import publish_run, publish_scores
from tasks.evaluate import evaluate
from tasks.pool import heldout

__all__ = ["evaluate_student", "evaluate_students"]


def evaluate_student(ref: RunRef, number: int, benchmarks: Sequence[str], *, also_terminal: bool = False) -> None:
    """Score the student after round ``number`` on the held-out set, if the run has one, and on ``benchmarks``.

    With ``also_terminal`` judges of benchmarks are asked anew where they failed for good.
    """
    run = RunFolder(ref)
    if run.config.data.heldout is not None:
        run_shards(ref, StageAt("answer_heldout", number), answer_heldout_shard)
        run_stage(ref, evaluate, number)
    for name in benchmarks:
        ask_benchmark(ref, number, name, also_terminal=also_terminal)


@project_flow("evaluate", run_name="{ref.name}")
def evaluate_students(
    ref: RunRef, compared: Sequence[Compared], benchmarks: Sequence[str] = (), also_terminal: bool = False
) -> None:
    """Score these students and models where their scores do not stand; show all scores, in report and run card too.

    With ``also_terminal`` judges of benchmarks are asked anew where they failed for good.
    """
    run = RunFolder(ref)
    numbers = [each for each in compared if isinstance(each, int)]
    with live_spend(ref, scoring_stages(run, compared, benchmarks)):
        if numbers and run.config.data.heldout is not None:
            run_stage(ref, heldout)
        models = {name: [each for each in models_of(run, name) if each in compared] for name in benchmarks}
        for name, given in models.items():
            read_benchmark(ref, name, given)
        for number in numbers:
            with tags(f"round-{number}" if number >= 0 else student_name(number)):
                evaluate_student(ref, number, benchmarks, also_terminal=also_terminal)
        for name, given in models.items():
            for model in given:
                with tags(model):
                    ask_benchmark(ref, model, name, also_terminal=also_terminal)
    publish_scores(ref, numbers)
    publish_run(ref)
