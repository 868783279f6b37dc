"""A task of lm-evaluation-harness: what its marks of a student's answers come to.

The marks are the harness's own (`tasks/engines/lm_eval.py` runs it), each a share, 0-1; a question has one or several
in a metric. Here they are averaged as everywhere: never without n, the number that failed and an interval. Means are
those of the harness, over all marks; n, what failed and its share count questions. Departure: its standard errors
take the marks of one question as independent where it has any for such a metric; here questions are.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tapir_core.config import LmEvalBenchmark, Sampling
from tapir_core.evaluation.benchmarks.failures import Failures
from tapir_core.evaluation.benchmarks.types import (
    REPLIES,
    Exchange,
    ItemValues,
    Judged,
    Place,
    Score,
    in_percent,
    items_table,
    mean_value,
    score,
)
from tapir_core.evaluation.statistics import ALL, SHARE, ratio_figure

__all__ = ["UNKNOWN", "HarnessTask", "LmEval", "lm_eval_items", "lm_eval_replies"]

UNKNOWN = "marks"
"""Metric of answers of which none could be marked, so that the harness named none."""

Marks = Mapping[str, Sequence[tuple[str, Sequence[float]]]]
"""Metric → question and its marks, 0-1."""


@dataclass(frozen=True, slots=True)
class HarnessTask:
    """What the harness says of a task beside its questions."""

    harness: str
    """Version of the harness."""
    name: str
    version: str
    """The task's own version."""
    sampling: str
    """How the task itself would draw answers, in words; empty where it does not say."""

    @property
    def judge(self) -> str:
        """Who marks, as it stands beside a figure."""
        return f"lm-evaluation-harness {self.harness}"

    @property
    def in_words(self) -> str:
        """What asks, as it stands beside a figure."""
        return f"{self.name} {self.version}" + (f" (its own sampling: {self.sampling})" if self.sampling else "")


@dataclass(frozen=True, slots=True)
class LmEval:
    """The benchmark with its settings."""

    settings: LmEvalBenchmark

    def answering(self, _category: str, _student: Sampling) -> Sampling:
        """As configured, since a task's own longest answer may not fit the student."""
        return self.settings.answering

    def scores(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judged]) -> list[Score]:
        """A mean of each metric, in per cent, in the order of the harness: the first one is the headline."""
        limit = self.settings.max_failed_share
        found: list[Score] = []
        for metric, marks in _by_metric(exchanges, judged).items():
            sums = [_sum(values) for values in marks.values()]
            mean = ratio_figure(sums, scale=SHARE, max_failed_share=limit, unit="questions")
            several = (
                f"mean of {sum(len(values) for values in marks.values() if _sum(values))} marks; n counts questions"
            )
            note = several if any(len(values) > 1 for values in marks.values()) else ""
            failures = "" if found else Failures().in_words(judged, metric)
            found.append(score(metric, in_percent(mean), ALL, note, failures))
        return found

    def values(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judged]) -> dict[str, ItemValues]:
        """Of the metrics with one mark a question the mark, in per cent."""
        return {
            metric: {question: _percent(mean_value(values)) for question, values in marks.items()}
            for metric, marks in _by_metric(exchanges, judged).items()
            if all(len(values) == 1 for values in marks.values())
        }


def lm_eval_items(items: Iterable[tuple[str, str, str]]) -> pl.DataFrame:
    """Question, prompt and target of the harness as ``ITEMS``."""
    return items_table((question, ALL, 1, prompt, target, None) for question, prompt, target in items)


def lm_eval_replies(task: HarnessTask, marks: Marks, failed: Mapping[str, str]) -> pl.DataFrame:
    """A benchmark's ``replies/``: a row a metric, question and mark, which are counted as turns.

    Args:
        task: What marked.
        marks: Its marks.
        failed: Question → why it has none; a row in each metric.
    """
    rows: list[tuple[object, ...]] = []
    for metric in [*marks] or [UNKNOWN]:
        for question, values in marks.get(metric, ()):
            for turn, value in enumerate(values, start=1):
                rows.append(
                    (question, turn, metric, "single", value, None, task.in_words, "scored", "", "", task.judge)
                )
        for question, reason in failed.items():
            rows.append((question, 1, metric, "single", None, None, task.in_words, "failed", reason, "", task.judge))
    return pl.DataFrame(rows, schema=REPLIES, orient="row")


def _by_metric(
    exchanges: Sequence[Exchange], judged: Mapping[Place, Judged]
) -> dict[str, dict[str, list[float | None]]]:
    """Metric → question → its marks; one that is nothing where the question has none."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for (question, _, metric, _), mark in judged.items():
        found.setdefault(metric, {}).setdefault(question, []).append(mark.value)
    asked = [each.question_id for each in exchanges]
    return {metric: {each: marks.get(each, [None]) for each in asked} for metric, marks in found.items()}


def _sum(marks: Sequence[float | None]) -> tuple[float, int] | None:
    """A question's marks together, and how many they are; None where one failed."""
    kept = [mark for mark in marks if mark is not None]
    return (math.fsum(kept), len(kept)) if len(kept) == len(marks) else None


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
