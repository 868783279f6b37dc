"""Benchmarks that mark answers themselves, and ask nobody: the marks, and what they come to."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import polars as pl

from tapir_core.config import MarkedBenchmark, RunConfig
from tapir_core.evaluation.benchmark import Benchmark, Exchange, Scripts, benchmark_of
from tapir_core.evaluation.scores import REPLIES, ItemValues, Judgment, Place, Score, failures_in_words, score
from tapir_core.evaluation.statistics import ALL, SHARE, in_percent, mean_value, ratio_figure
from tapir_core.prompts import Prompt

UNKNOWN = "marks"
"""Metric of answers of which none could be marked, so that nothing named one."""

_M = TypeVar("_M", bound=MarkedBenchmark)


class Answered(NamedTuple):
    """An answer to be marked."""

    question_id: str
    question: str
    reference: str | None
    response: str
    """As the student gave it, blanks around it included."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What a benchmark that marks answers itself made of them."""

    marker: str
    """Who marks, with its version, as it stands beside a figure in the place of a judge."""
    rules: str
    """By which rules, with their version, as it stands beside a figure in the place of a prompt's version."""
    values: Mapping[str, Sequence[tuple[str, Sequence[float]]]]
    """Metric → question and its marks, each 0-1; the first metric is the headline."""
    left_out: tuple[str, ...] = ()
    """Metrics that are no mean of such marks."""

    def replies(self, failed: Mapping[str, str]) -> pl.DataFrame:
        """A row a metric, question and mark, which are counted as turns, ``REPLIES``.

        ``failed`` are the questions that have no mark, and why; a row in each metric.
        """
        rows: list[tuple[object, ...]] = []
        for metric in [*self.values] or [UNKNOWN]:
            for question, marks in self.values.get(metric, ()):
                for turn, mark in enumerate(marks, start=1):
                    rows.append((question, turn, metric, "single", mark, None, self.rules, "scored", "", ""))
            rows += (
                (question, 1, metric, "single", None, None, self.rules, "failed", reason, "")
                for question, reason in failed.items()
            )
        return pl.DataFrame([(*row, self.marker) for row in rows], schema=REPLIES, orient="row")


class Marking(Benchmark[_M]):
    """A benchmark that marks answers itself, each with shares (0-1), and asks nobody.

    A question has one turn, and one mark or several in a metric. A figure is the mean over all marks, in per cent; n,
    what failed and its share count questions, which the interval takes as independent, and not the marks.
    """

    @abstractmethod
    def mark(self, answers: Sequence[Answered]) -> Marks:
        """The marks of a student's answers, which are in the order of the questions; those that failed are not here."""

    def scores(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> list[Score]:
        """A mean of each metric, in per cent, in the order of the marks: the first one is the headline."""
        found: list[Score] = []
        for metric, marks in _by_metric(exchanges, judged).items():
            sums = [_sum(values) for values in marks.values()]
            mean = in_percent(
                ratio_figure(sums, scale=SHARE, max_failed_share=self.settings.max_failed_share, unit="questions")
            )
            if any(len(values) > 1 for values in marks.values()):
                counted = sum(count for _, count in filter(None, sums))
                mean = replace(mean, note=f"mean of {counted} marks; n counts questions")
            found.append(score(metric, mean, ALL, "" if found else failures_in_words(judged, metric)))
        return found

    def values(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> dict[str, ItemValues]:
        """Of the metrics with one mark a question the mark, in per cent."""
        return {
            metric: {
                question: None if (mark := mean_value(values)) is None else 100 * mark
                for question, values in marks.items()
            }
            for metric, marks in _by_metric(exchanges, judged).items()
            if all(len(values) == 1 for values in marks.values())
        }

    def judged_by(self, _config: RunConfig, _prompts: Mapping[str, Prompt], replies: pl.DataFrame) -> tuple[str, str]:
        """What marked, which may be another version than is installed by now, and by which rules."""
        marker, rules = replies.select("judge", "how").row(0)
        return marker, rules


def marking(config: RunConfig, name: str, scripts: Scripts) -> Marking[Any]:
    """The benchmark of this name; it is one that marks answers itself."""
    found = benchmark_of(config, name, scripts)
    assert isinstance(found, Marking)
    return found


def _by_metric(
    exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]
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
