"""A benchmark of lm-evaluation-harness: its questions, and stage `benchmark_replies` as the harness's marks.

One task, not shards: the harness takes seconds to start, and nobody is paid. Killed, it marks again; the answers stand.
"""

import polars as pl

from tapir_core.config import LmEvalBenchmark
from tapir_core.evaluation.benchmarks import lm_eval_items, lm_eval_replies
from tapir_core.paths import log_file
from tapir_core.run_folder import RunFolder
from tapir_core.stages import BENCHMARK_REPLIES, StageAt
from tasks._task import stage_task
from tasks.engines.lm_eval import Harness
from tasks.outcomes import Worked
from tasks.runtime import current

__all__ = ["benchmark_marks", "harness_questions"]


def harness_questions(run: RunFolder, at: StageAt) -> pl.DataFrame:
    """What the harness asks, as the benchmark's items."""
    return lm_eval_items(_harness(run, at).questions())


@stage_task(BENCHMARK_REPLIES, when=lambda c, at: at.benchmark not in c.evaluation.judged)
def benchmark_marks(run: RunFolder, at: StageAt) -> Worked:
    """The harness's marks of one student's answers; a question without an answer has failed in each metric."""
    items = run.rows(StageAt("benchmark_items", benchmark=at.benchmark))
    answers = run.rows(StageAt("benchmark_answers", at.round, benchmark=at.benchmark))
    given = dict(answers.drop_nulls("response").select("question_id", "response").rows())
    asked = items.select("question_id", "question").rows()
    marked = _harness(run, at).mark([(name, prompt, given[name]) for name, prompt in asked if name in given])
    failed = {name: "the student gave no answer" for name, _ in asked if name not in given}
    counts: dict[str, float] = {"marked": len(given), **{f"left out: {metric}": 1 for metric in marked.left_out}}
    return Worked(lm_eval_replies(marked.task, marked.marks, failed), counts)


def _harness(run: RunFolder, at: StageAt) -> Harness:
    settings = run.kept_config.evaluation.asked[at.benchmark_name]
    assert isinstance(settings, LmEvalBenchmark)
    runtime = current(run)
    log = run.workplace.local(log_file("lm-eval"))
    return Harness(at.benchmark_name, settings, log, lambda: runtime.check_stop(at))
