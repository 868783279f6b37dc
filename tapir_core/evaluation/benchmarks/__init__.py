"""Benchmarks that are asked of a student. Start at `benchmark_of`."""

from tapir_core.config import AlpacaEvalBenchmark, RunConfig
from tapir_core.evaluation.benchmarks.alpaca_eval import AlpacaEval
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
]


def benchmark_of(config: RunConfig, name: str) -> Benchmark:
    """The benchmark of this name; it is one that is asked."""
    settings = config.evaluation.asked[name]
    assert isinstance(settings, AlpacaEvalBenchmark)
    return AlpacaEval(name, settings)
