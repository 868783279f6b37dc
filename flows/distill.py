"""The whole distillation, as the method states it: pool, labels, plain answers, S_0, then round by round.

Order only: what a stage does stands in `tasks/`, what it means in `tapir_core/`.
"""

from contextlib import suppress

from prefect import tags

from flows.benchmarks import read_benchmark
from flows.evaluate import evaluate_student
from flows.round import round_flow
from flows.running.fleet import join_fleet
from flows.running.judge_gaps import tell_gaps
from flows.running.live_spend import live_spend
from flows.running.project_flow import project_flow
from flows.steps import run_stage, seal_stage, submit_shards
from flows.until import Reached, comes_after, find_stage
from tapir_core.paths import BACKBONE
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt, plan
from tasks.artifacts import publish_round, publish_run
from tasks.inputs import check_pool
from tasks.label import label_shard
from tasks.mix import mix
from tasks.pool import contaminated, heldout, pool, questions
from tasks.runtime import current
from tasks.teach import teach_shard
from tasks.train import train
from tasks.training_runs import check_trainer

__all__ = ["distill"]


@project_flow("distill", run_name="{ref.name}")
def distill(ref: RunRef, until: str | None = None) -> dict[str, object]:
    """Distil a student round by round, to the end or ``until`` a stage holds; returns a summary of the rounds."""
    run = RunFolder(ref)
    join_fleet(run)
    current(run).until = find_stage(run.config, until) if until else None
    if not comes_after(run.config, StageAt("train", 0), current(run).until):
        check_trainer(run.config)
    rounds: list[dict[str, object]] = []
    each_round = run.config.evaluation.each_round
    with tell_gaps(ref), suppress(Reached), live_spend(ref, list(plan(run.config))):
        if run.config.data.heldout is not None:
            run_stage(ref, heldout)
        if run.config.evaluation.benchmarks:
            run_stage(ref, questions)
        if StageAt("contaminated") in plan(run.config):
            run_stage(ref, contaminated)
        for name in each_round:
            read_benchmark(ref, name)
        run_stage(ref, pool)
        labels = submit_shards(ref, StageAt("label"), label_shard)
        taught = submit_shards(ref, StageAt("teach"), teach_shard)
        seal_stage(ref, labels)
        seal_stage(ref, taught)
        check_pool(run)
        with tags("backbone"):
            evaluate_student(ref, BACKBONE, each_round)
            publish_round(ref, BACKBONE)
        with tags("round-0"):
            run_stage(ref, mix, 0)
            run_stage(ref, train, 0)
            evaluate_student(ref, 0, each_round)
            publish_round(ref, 0)
        for number in run.config.round_numbers:
            with tags(f"round-{number}"):
                rounds.append(round_flow(ref, number))
            if rounds[-1]["stopped"]:
                break
    publish_run(ref)
    return {"run": ref.name, "rounds": rounds}
