"""Held-out evaluation of one student: its answers, then its scores."""

from flows.sharding import run_shards
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks.answer import answer_heldout_shard, heldout_rows
from tasks.evaluate import evaluate

__all__ = ["evaluate_student"]


def evaluate_student(run: RunRef, number: int) -> None:
    """Score the student after round ``number``; nothing happens in a run without a held-out set."""
    folder = RunFolder(run)
    if folder.config.data.heldout is None:
        return
    at = StageAt("answer_heldout", number)
    rows = heldout_rows(folder, at).height
    run_shards(run, at, answer_heldout_shard, rows)
    evaluate(run, number)
