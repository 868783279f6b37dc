"""Benchmarks: one student's answers, the judge's replies to them, the figures.

The student is the one that was asked the held-out set before, so that one start of its server does for both. Judging
overlaps answering, a shard at a time; a benchmark that marks answers itself marks all of them at once.
"""

from collections.abc import Sequence

from flows.steps import follow_shards, run_shards, run_stage, seal_stage, submit_shards
from tapir_core.reporting.students import failed_judgments
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import Compared, benchmark_stages
from tasks.benchmarks import (
    benchmark_answers_shard,
    benchmark_items,
    benchmark_marks,
    benchmark_replies_shard,
    benchmark_scores,
    forget_failed,
)

__all__ = ["ask_benchmark", "read_benchmark"]


def read_benchmark(ref: RunRef, name: str, models: Sequence[str] = ()) -> None:
    """Read a benchmark's files, and those of ``models``: what is wrong with them is known before anybody is asked."""
    run_stage(ref, benchmark_items, benchmark=name)
    for model in models:
        answers_at, *_ = benchmark_stages(name, model)
        run_shards(ref, answers_at, benchmark_answers_shard)


def ask_benchmark(ref: RunRef, who: Compared, name: str, *, also_terminal: bool = False) -> None:
    """Ask a student a benchmark that is read, or judge a model's outputs; what holds is not done again.

    With ``also_terminal`` the judge is asked anew where it failed for good; the old seal stays until the next one.
    """
    run = RunFolder(ref)
    answers_at, replies_at, scores_at = benchmark_stages(name, who)
    answers = submit_shards(ref, answers_at, benchmark_answers_shard)
    if name in run.config.evaluation.judged:
        again = also_terminal and bool(failed_judgments(run, replies_at))
        if again:
            forget_failed(run, replies_at)
        replies = follow_shards(ref, replies_at, benchmark_replies_shard, answers, also_done=again)
        seal_stage(ref, answers)
        seal_stage(ref, replies)
    else:
        seal_stage(ref, answers)
        run_stage(ref, benchmark_marks, scores_at.round, benchmark=name)
    run_stage(ref, benchmark_scores, scores_at.round, benchmark=name, model=scores_at.model)
