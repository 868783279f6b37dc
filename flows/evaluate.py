"""Flow *evaluate*: scores of the students of a run on their own, and of models whose outputs to a benchmark are files.

Held-out set first, then benchmarks, while the same student is served. Scores that stand are not made again.
"""

from collections.abc import Sequence

from prefect import tags

from flows.project_flow import live_spend, project_flow
from flows.steps import run_stages
from tapir_core.paths import BACKBONE
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import failed_judgments, models_of, scoring_stages
from tapir_core.stages import BENCHMARK_ITEMS, Compared, StageAt, benchmark_stages, heldout_stages
from tasks.artifacts import publish_run, publish_scores
from tasks.benchmarks import forget_failed


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
        run_stages(ref, _read_first(run, compared, benchmarks))
        for who in sorted(compared, key=lambda each: isinstance(each, str)):
            stages = scoring_stages(run, [who], benchmarks)
            with tags(who if isinstance(who, str) else {BACKBONE: "backbone"}.get(who, f"round-{who}")):
                run_stages(ref, stages, again=lambda at: also_terminal and _forget_failed(run, at))
    publish_scores(ref, numbers)
    publish_run(ref)


def _read_first(run: RunFolder, compared: Sequence[Compared], benchmarks: Sequence[str]) -> list[StageAt]:
    """What is read of files: what is wrong with them is known before anybody is asked."""
    stages = heldout_stages(run.config) if any(isinstance(each, int) for each in compared) else []
    for name in benchmarks:
        stages.append(BENCHMARK_ITEMS.at(benchmark=name))
        stages += [benchmark_stages(name, model)[0] for model in models_of(run, name) if model in compared]
    return stages


def _forget_failed(run: RunFolder, at: StageAt) -> bool:
    """Whether judgments failed for good, once those are forgotten, so that their judge is asked anew."""
    failed = failed_judgments(run, at) > 0
    if failed:
        forget_failed(run, at)
    return failed
