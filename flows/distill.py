"""The whole distillation, as the method states it: pool, labels, plain answers, S_0, then round by round.

Order only: what a stage does stands in `tasks/`, what it means in `tapir_core/`.
"""

from prefect import tags

from flows.evaluate import evaluate_student
from flows.project_flow import project_flow
from flows.round import round_flow
from flows.sharding import run_shards, seal_stage, submit_shards
from tapir_core.paths import BACKBONE
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks.artifacts import publish_run
from tasks.inputs import check_pool
from tasks.label import label_shard
from tasks.mix import mix
from tasks.pool import heldout, pool
from tasks.teach import teach_shard
from tasks.train import train

__all__ = ["distill"]


@project_flow("distill", run_name="{run.name}")
def distill(run: RunRef) -> dict[str, object]:
    """Distil a student round by round; returns a summary of the rounds that were done."""
    config = RunFolder(run).config
    with tags(f"run-{run.name}"):
        if config.data.heldout is not None:
            heldout(run)
        instructions = pool(run).rows
        labels = submit_shards(run, StageAt("label"), label_shard, instructions)
        taught = run_shards(run, StageAt("teach"), teach_shard, instructions)
        seal_stage(run, labels)
        check_pool(RunFolder(run))
        evaluate_student(run, BACKBONE)

        mix(run, 0)
        train(run, 0)
        evaluate_student(run, 0)
        rounds = []
        for number in range(1, config.run.rounds + 1):
            rounds.append(round_flow(run, number))
            if rounds[-1]["stopped"]:
                break
        publish_run(run)
    return {"run": run.name, "pool": taught.rows, "rounds": rounds}
