"""Evaluation: benchmarks, when they are asked, and how far what is trained on must stay away from their questions."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from tapir_core.config._base import Section
from tapir_core.config.benchmarks import AskedBenchmark, BenchmarkConfig, JudgedBenchmark, MarkedBenchmark
from tapir_core.config.endpoints import EndpointConfig

__all__ = ["HELDOUT", "BenchmarkName", "DecontaminationConfig", "EvaluationConfig"]

HELDOUT = "heldout"
"""What the run's own held-out set is called among benchmarks."""


def _check_benchmark_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,39}", name) or name == HELDOUT:
        raise ValueError(
            f'is no name for a benchmark; use a small letter, then small letters, digits, `_` and `-`, not "{HELDOUT}"'
        )
    return name


BenchmarkName = Annotated[str, AfterValidator(_check_benchmark_name)]
"""A benchmark's name in tables and folders."""


class DecontaminationConfig(Section):
    """When an instruction of pool or expansion holds an evaluation question, and is dropped."""

    overlap_words: Annotated[int, Field(ge=5)] = 13
    """It shares this many words in a row with a question, or holds a shorter one of at least 8 words whole."""

    max_rouge_l: Annotated[float, Field(ge=0.8, le=1)] = 0.8
    """Highest ROUGE-L F1 to a benchmark's question that passes; 1 switches near-duplicates off."""


class EvaluationConfig(Section):
    """Benchmarks from outside; the held-out set is a part of `[data]`."""

    benchmarks: dict[BenchmarkName, BenchmarkConfig] = Field(default_factory=dict)
    """`[evaluation.benchmarks.NAME]`, one table a benchmark; the names are yours, such as `alpaca_eval`."""

    each_round: Annotated[tuple[BenchmarkName, ...], Field(strict=False)] = ()
    """Benchmarks that backbone, S_0 and the student of every round are asked; the others wait for `tapir evaluate`."""

    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What keeps their questions, and the held-out set, out of what is trained on."""

    @property
    def asked(self) -> dict[str, AskedBenchmark]:
        """The benchmarks that can be asked, by name."""
        return {name: each for name, each in self.benchmarks.items() if isinstance(each, AskedBenchmark)}

    @property
    def judged(self) -> dict[str, JudgedBenchmark]:
        """Those whose answers a judge is asked about, by name."""
        return {name: each for name, each in self.benchmarks.items() if isinstance(each, JudgedBenchmark)}

    @property
    def marked(self) -> dict[str, MarkedBenchmark]:
        """Those that mark answers themselves, by name."""
        return {name: each for name, each in self.benchmarks.items() if isinstance(each, MarkedBenchmark)}

    @property
    def judges(self) -> dict[str, EndpointConfig]:
        """The judges that benchmarks have of their own, by the field that sets them."""
        return {
            f"evaluation.benchmarks.{name}.judge": each.judge
            for name, each in self.judged.items()
            if each.judge is not None
        }
