"""Example of a benchmark: an answer is right when it is the reference, word for word.

Its file is JSON lines: ``{"question": "What is the capital of France?", "answer": "Paris"}``. In a configuration:

    [evaluation.benchmarks.capitals]
    type = "exact_match"
    questions = "capitals.jsonl"
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import polars as pl

from tapir_core.config.benchmarks import MarkedBenchmark, OfReplies
from tapir_core.evaluation.benchmark import items_table, register
from tapir_core.evaluation.marking import Answered, Marking, Marks
from tapir_core.evaluation.rows import read_rows, text_of
from tapir_core.evaluation.scores import ALL

__all__ = ["ExactMatch", "ExactMatchBenchmark"]


class ExactMatchBenchmark(MarkedBenchmark):
    """Questions with one right answer each, in JSON lines."""

    type: Literal["exact_match"] = "exact_match"

    ignore_case: OfReplies[bool] = True
    """Whether `PARIS` is right where the reference is `Paris`."""

    @property
    def marker(self) -> str:
        """We compare texts ourselves."""
        return "exact match"


@register(ExactMatchBenchmark)
class ExactMatch(Marking[ExactMatchBenchmark]):
    """The benchmark with its settings."""

    labels: ClassVar[dict[str, str]] = {"exact_match": "right answers, %"}

    def items(self) -> pl.DataFrame:
        """A question a line, with its reference."""
        rows = read_rows(self.settings.questions, lambda row: (text_of(row, "question"), text_of(row, "answer")), "row")
        return items_table((str(n), ALL, 1, asked, right, None) for n, (asked, right) in enumerate(rows, start=1))

    def mark(self, answers: Sequence[Answered]) -> Marks:
        """1 for the reference, without the blanks around it; 0 for anything else."""
        marks = [
            (each.question_id, [float(self._text(each.response) == self._text(each.reference))]) for each in answers
        ]
        case = "letter case ignored" if self.settings.ignore_case else "letter case counts"
        return Marks(self.settings.marker, f"version 1, {case}", {"exact_match": marks} if marks else {})

    def _text(self, text: str | None) -> str:
        plain = (text or "").strip()
        return plain.casefold() if self.settings.ignore_case else plain
