"""One round: answer → judge → difficulty → select → expand → refine → mix → train → evaluate."""

from prefect import tags

from flows.evaluate import evaluate_student
from flows.expand import expand_round
from flows.project_flow import project_flow
from flows.sharding import follow_shards, run_shards, seal_stage, submit_shards
from tapir_core.judging import expected_orders
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks.answer import answer_shard
from tasks.artifacts import publish_round
from tasks.difficulty import difficulty
from tasks.inputs import round_pool
from tasks.judge import judge_shard
from tasks.mix import mix
from tasks.refine import hard_rows, refine_shard
from tasks.schedule import stop_reason
from tasks.select import select
from tasks.train import train

__all__ = ["round_flow"]


@project_flow("round", run_name="round-{number}")
def round_flow(run: RunRef, number: int) -> dict[str, object]:
    """From S_{r−1} to S_r; returns how many seeds and examples it had."""
    folder = RunFolder(run)
    with tags(f"round-{number}"):
        rows = round_pool(folder, number).height
        orders = len(expected_orders(folder.config.judge))
        answers = submit_shards(run, StageAt("answer", number), answer_shard, rows)
        verdicts = follow_shards(run, StageAt("judge", number), judge_shard, answers, rows * orders)
        seal_stage(run, answers)
        seal_stage(run, verdicts)
        difficulty(run, number)
        seeds = select(run, number)
        if (reason := stop_reason(run, number)) is not None:
            return {"round": number, "seeds": seeds.rows, "stopped": reason}
        expand_round(run, number)
        refine = StageAt("refine", number)
        run_shards(run, refine, refine_shard, hard_rows(folder, refine).height)
        mixture = mix(run, number)
        train(run, number)
        evaluate_student(run, number)
        publish_round(run, number)
        reason = stop_reason(run, number)
    return {"round": number, "seeds": seeds.rows, "examples": mixture.rows, "stopped": reason}
