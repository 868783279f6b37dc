"""Benchmarks: one student's answers, the judge's replies to them, the figures.

The student is the one that was asked the held-out set before, so that one start of its server does for both. Judging
overlaps answering, a shard at a time; lm-evaluation-harness marks all answers at once.
"""

from flows.steps import follow_shards, run_stage, seal_stage, submit_shards
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt, benchmark_stages
from tasks.benchmark_answers import asked_questions, benchmark_answers_shard
from tasks.benchmark_marks import benchmark_marks
from tasks.benchmark_replies import benchmark_replies_shard
from tasks.benchmarks import benchmark_items, benchmark_scores

__all__ = ["ask_benchmark", "read_benchmark"]


def read_benchmark(ref: RunRef, name: str) -> None:
    """Read a benchmark's files, so that what is wrong with them is known before anybody is asked."""
    run_stage(ref, benchmark_items, None, None, name)


def ask_benchmark(ref: RunRef, number: int, name: str) -> None:
    """Ask the student after round ``number`` a benchmark that is read; what holds is not done again."""
    run = RunFolder(ref)
    answers_at, replies_at, _ = benchmark_stages(name, number)
    rows = asked_questions(run, StageAt("benchmark_items", benchmark=name)).height
    answers = submit_shards(ref, answers_at, benchmark_answers_shard, rows)
    if name in run.config.evaluation.judged:
        replies = follow_shards(ref, replies_at, benchmark_replies_shard, answers, rows)
        seal_stage(ref, answers)
        seal_stage(ref, replies)
    else:
        seal_stage(ref, answers)
        run_stage(ref, benchmark_marks, number, None, name)
    run_stage(ref, benchmark_scores, number, None, name)
