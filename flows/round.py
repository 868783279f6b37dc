"""One round: answer → judge → difficulty → select → expand → refine → mix → train → evaluate.

A round that draws its seeds at random begins with select.
"""

from flows.evaluate import evaluate_student
from flows.expand import expand_round
from flows.running.project_flow import project_flow
from flows.steps import follow_shards, run_shards, run_stage, seal_stage, submit_shards
from tapir_core.judging import verdicts_per_instruction
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks.answer import answer_shard
from tasks.artifacts import publish_judge, publish_round
from tasks.difficulty import difficulty
from tasks.judge import judge_shard
from tasks.mix import mix
from tasks.refine import refine_shard
from tasks.schedule import stop_reason
from tasks.select import select
from tasks.train import train

__all__ = ["round_flow"]


@project_flow("round", run_name="round-{number}", child=True)
def round_flow(ref: RunRef, number: int) -> dict[str, object]:
    """From S_{r−1} to S_r; returns how many seeds and examples it had, and why the run stops here if it does."""
    run = RunFolder(ref)
    if run.config.judges(number):
        _measure(run, number)
    seeds = run_stage(ref, select, number)
    if (reason := stop_reason(ref, number)) is not None:
        return {"round": number, "seeds": seeds.rows, "stopped": reason}
    expand_round(ref, number)
    run_shards(ref, StageAt("refine", number), refine_shard)
    mixture = run_stage(ref, mix, number)
    run_stage(ref, train, number)
    evaluate_student(ref, number, run.config.evaluation.each_round)
    publish_round(ref, number)
    reason = stop_reason(ref, number)
    return {"round": number, "seeds": seeds.rows, "examples": mixture.rows, "stopped": reason}


def _measure(run: RunFolder, number: int) -> None:
    """How hard the round's pool is for S_{r−1}."""
    ref, each = run.ref, verdicts_per_instruction(run.config.judge)
    answers = submit_shards(ref, StageAt("answer", number), answer_shard)
    verdicts = follow_shards(ref, StageAt("judge", number), judge_shard, answers, each=each)
    seal_stage(ref, answers)
    seal_stage(ref, verdicts)
    publish_judge(ref, number)
    run_stage(ref, difficulty, number)
