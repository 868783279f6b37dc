"""Held-out evaluation of one student: its answers, then its scores."""

from flows.steps import run_shards, run_stage
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks.answer import answer_heldout_shard, heldout_rows
from tasks.evaluate import evaluate

__all__ = ["evaluate_student"]


def evaluate_student(ref: RunRef, number: int) -> None:
    """Score the student after round ``number``; nothing happens in a run without a held-out set."""
    run = RunFolder(ref)
    if run.config.data.heldout is None:
        return
    at = StageAt("answer_heldout", number)
    run_shards(ref, at, answer_heldout_shard, heldout_rows(run, at).height)
    run_stage(ref, evaluate, number)
