"""Benchmarks that are asked of a student. Start at `benchmark_of`."""

from tapir_core.config import AlpacaEvalBenchmark, MTBenchBenchmark, RunConfig, VicunaBenchmark
from tapir_core.evaluation.benchmarks.alpaca_eval import AlpacaEval
from tapir_core.evaluation.benchmarks.baseline import baseline_student
from tapir_core.evaluation.benchmarks.mt_bench import MTBench
from tapir_core.evaluation.benchmarks.table import judged_places, score_rows
from tapir_core.evaluation.benchmarks.types import (
    SCORES,
    Benchmark,
    Exchange,
    Game,
    Judged,
    Place,
    Reading,
    Score,
    exchanges_of,
)
from tapir_core.evaluation.benchmarks.vicuna import Vicuna

__all__ = [
    "SCORES",
    "Benchmark",
    "Exchange",
    "Game",
    "Judged",
    "Place",
    "Reading",
    "Score",
    "benchmark_of",
    "exchanges_of",
    "judged_places",
    "score_rows",
]


def benchmark_of(config: RunConfig, name: str) -> Benchmark:
    """The benchmark of this name; it is one that is asked."""
    settings, against = config.evaluation.asked[name], baseline_student(config, name)
    match settings:
        case AlpacaEvalBenchmark():
            return AlpacaEval(name, settings, against)
        case MTBenchBenchmark():
            return MTBench(name, settings, against)
        case VicunaBenchmark():
            return Vicuna(name, settings, against)
        case _:
            raise AssertionError(f"no benchmark is asked by {type(settings).__name__}")
