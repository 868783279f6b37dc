"""Benchmarks that are asked of a student. Start at `benchmark_of`."""

from tapir_core.config import AlpacaEvalBenchmark, LmEvalBenchmark, MTBenchBenchmark, RunConfig, VicunaBenchmark
from tapir_core.evaluation.benchmarks.alpaca_eval import AlpacaEval
from tapir_core.evaluation.benchmarks.baseline import baseline_student
from tapir_core.evaluation.benchmarks.lm_eval import HarnessTask, LmEval, lm_eval_items, lm_eval_replies
from tapir_core.evaluation.benchmarks.mt_bench import MTBench
from tapir_core.evaluation.benchmarks.outputs import given_answers
from tapir_core.evaluation.benchmarks.table import judged_places, score_rows, without_files
from tapir_core.evaluation.benchmarks.types import (
    REPLIES,
    SCORES,
    Benchmark,
    Exchange,
    Game,
    Judged,
    JudgedOne,
    Place,
    Reading,
    Score,
    exchanges_of,
)
from tapir_core.evaluation.benchmarks.vicuna import Vicuna

__all__ = [
    "REPLIES",
    "SCORES",
    "Benchmark",
    "Exchange",
    "Game",
    "HarnessTask",
    "Judged",
    "JudgedOne",
    "LmEval",
    "Place",
    "Reading",
    "Score",
    "benchmark_of",
    "exchanges_of",
    "given_answers",
    "judged_one",
    "judged_places",
    "lm_eval_items",
    "lm_eval_replies",
    "score_rows",
    "without_files",
]


def benchmark_of(config: RunConfig, name: str) -> Benchmark:
    """The benchmark of this name; it is one that is asked."""
    settings = config.evaluation.asked[name]
    return LmEval(settings) if isinstance(settings, LmEvalBenchmark) else judged_one(config, name)


def judged_one(config: RunConfig, name: str) -> JudgedOne:
    """The benchmark of this name; it is one whose answers a judge is asked about."""
    settings, against = config.evaluation.judged[name], baseline_student(config, name)
    match settings:
        case AlpacaEvalBenchmark():
            return AlpacaEval(name, settings, against)
        case MTBenchBenchmark():
            return MTBench(name, settings, against)
        case VicunaBenchmark():
            return Vicuna(name, settings, against)
        case _:
            raise AssertionError(f"no benchmark is asked by {type(settings).__name__}")
