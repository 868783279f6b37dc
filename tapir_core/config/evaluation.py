"""Evaluation: the questions of benchmarks, and how far what is trained on must stay away from them."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from tapir_core.config._base import Section

__all__ = ["HELDOUT", "BenchmarkConfig", "BenchmarkName", "DecontaminationConfig", "EvaluationConfig"]

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


class BenchmarkConfig(Section):
    """A benchmark; its name is yours to choose, such as `alpaca_eval`."""

    questions: str
    """File or URL with its questions: `instruction`, `turns` or `prompt` in a JSON list or JSON lines."""


class DecontaminationConfig(Section):
    """When an instruction of pool or expansion holds an evaluation question, and is dropped."""

    overlap_words: Annotated[int, Field(ge=5)] = 13
    """It shares this many words in a row with a question, or holds a shorter one of at least 8 words whole."""

    max_rouge_l: Annotated[float, Field(ge=0.8, le=1)] = 0.8
    """Highest ROUGE-L F1 to a benchmark's question that passes; 1 switches near-duplicates off."""


class EvaluationConfig(Section):
    """Benchmarks from outside; the held-out set is a part of `[data]`."""

    benchmarks: dict[BenchmarkName, BenchmarkConfig] = Field(default_factory=dict)
    """`[evaluation.benchmarks.NAME]`, one table a benchmark."""

    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What keeps their questions, and the held-out set, out of what is trained on."""
