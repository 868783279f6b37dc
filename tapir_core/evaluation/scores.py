"""Judgments of a benchmark as they are kept, and the figures that are made of them, as rows.

Grain: a `Judgment` is one row of a benchmark's ``replies/``, a `Score` one of its ``scores/``. Failures are counted in
questions, whatever a figure counts: a question is in it once for each reason.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from tapir_core.evaluation.statistics import ALL, Figure
from tapir_core.judging.estimates import Estimate
from tapir_core.text import shorten

__all__ = [
    "NO_ANSWER",
    "NO_BASELINE",
    "REPLIES",
    "SCORES",
    "ItemValues",
    "Judgment",
    "Order",
    "Place",
    "Score",
    "failures_in_words",
    "in_percent",
    "judgments_of",
    "mean_value",
    "position_note",
    "score",
    "withhold_categories",
]

REPLIES = pl.Schema(
    {
        "question_id": pl.String(),
        "turn": pl.Int64(),
        "mode": pl.String(),
        "order": pl.String(),
        "value": pl.Float64(),
        "baseline_value": pl.Float64(),
        **dict.fromkeys(("how", "status", "reason", "raw", "judge"), pl.String()),
    }
)
"""One row a judgment of one student's answers."""

SCORES = pl.Schema(
    {
        **dict.fromkeys(("benchmark", "split", "category", "metric"), pl.String()),
        **dict.fromkeys(("value", "stderr"), pl.Float64()),
        "n": pl.Int64(),
        **dict.fromkeys(("low", "high"), pl.Float64()),
        "n_failed": pl.Int64(),
        **dict.fromkeys(("note", "judge", "prompt_version", "settings"), pl.String()),
    }
)
"""One row a figure and category of one student."""

NO_ANSWER, NO_BASELINE = "there is no answer", "the baseline has no answer"
"""Why a judgment has failed that nobody can be asked for: whose answer is not there."""

Order = Literal["model_first", "baseline_first", "single"]

ItemValues = dict[str, float | None]
"""Question → its value, over its turns and orders; None where one of them failed."""

Place = tuple[str, int, str, Order]
"""Question, turn, mode and order of a judgment."""

_LISTED = 5
_LONGEST_SAID = 160
_OF_LOGPROBS = re.compile("log.?prob", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Judgment:
    """A judgment as it is kept; its values are nothing where it failed."""

    value: float | None = None
    baseline_value: float | None = None
    how: str = ""
    reason: str = ""
    """Why it failed; empty where it did not, or nobody wrote it down."""
    said: str = ""
    """What the judge, or its provider, said when it failed."""


@dataclass(frozen=True, slots=True)
class Score:
    """A figure of one category, or why there is none."""

    category: str
    metric: str
    estimate: Estimate
    n_failed: int
    note: str = ""
    """A bias that was found, what the figure rests on, or why there is no figure or no interval."""

    def row(self, benchmark: str, split: str, judge: str, prompt_version: str, settings: str) -> tuple[object, ...]:
        """As a row of ``SCORES``, with what stands beside it."""
        found = self.estimate
        figure = (found.value, found.stderr, found.n, found.low, found.high)
        beside = (self.n_failed, self.note, judge, prompt_version, settings)
        return (benchmark, split, self.category, self.metric, *figure, *beside)


def judgments_of(replies: pl.DataFrame) -> dict[Place, Judgment]:
    """The judgments of a benchmark's ``replies/``."""
    places = replies.select("question_id", "turn", "mode", "order").rows()
    said = pl.when(status="failed").then("raw").otherwise(pl.lit("")).alias("said")
    values = replies.select("value", "baseline_value", "how", "reason", said).rows()
    return {place: Judgment(*found) for place, found in zip(places, values, strict=True)}


def score(metric: str, found: Figure, category: str = ALL, note: str = "", failures: str = "") -> Score:
    """A figure as a row; what it says of itself stands behind ``note``, which says nothing where there is no figure.

    Last come the ``failures``, in words.
    """
    told = (note if found.estimate.value is not None else "", found.estimate.why, failures)
    return Score(category, metric, found.estimate, found.n_failed, "; ".join(filter(None, told)))


def withhold_categories(scores: Iterable[Score]) -> list[Score]:
    """The same figures, but none of a category where too much failed for that of the whole.

    Failures are no random sample: a category that seems to have been spared is no safer to read than the rest.
    """
    found = list(scores)
    none = {each.metric: each.estimate.why for each in found if each.category == ALL and each.estimate.value is None}
    return [
        replace(each, estimate=Estimate(None, each.estimate.n, why=why), note=why)
        if each.estimate.value is not None and (why := none.get(each.metric))
        else each
        for each in found
    ]


def mean_value(values: Sequence[float | None]) -> float | None:
    """The mean; None where one failed."""
    kept = [value for value in values if value is not None]
    return math.fsum(kept) / len(kept) if kept and len(kept) == len(values) else None


def in_percent(share: Figure) -> Figure:
    """A figure of shares (0-1) in per cent."""
    found = share.estimate
    value, low, high, stderr = (
        None if each is None else 100 * each for each in (found.value, found.low, found.high, found.stderr)
    )
    return replace(share, estimate=replace(found, value=value, low=low, high=high, stderr=stderr))


def position_note(favoured: str | None) -> str:
    """The flag of a judge that favours a position; empty where it favours none, or too little is there to tell."""
    return f"position bias: favours the answer shown {favoured}" if favoured in ("first", "second") else ""


def failures_in_words(
    judged: Mapping[Place, Judgment], mode: str | None = None, *, field: str = "", baseline: str = "", logprobs: int = 0
) -> str:
    """The failed judgments by reason, counted in questions; empty where no reason is known.

    Args:
        judged: The judgments.
        mode: Those of one mode only.
        field: Of the configuration, which has the benchmark; named where a setting of it is the remedy.
        baseline: Whose answers stand against the student's.
        logprobs: Log-probabilities that the judge was asked for.
    """
    reasons: dict[str, dict[str, str]] = {}
    for (question, _, of, _), each in judged.items():
        if each.value is None and each.reason and mode in (None, of):
            reasons.setdefault(each.reason, {}).setdefault(question, each.said)
    told = []
    for reason, questions in reasons.items():
        if reason in (NO_ANSWER, NO_BASELINE):
            whose = f"the baseline, {baseline}, has no answer" if reason == NO_BASELINE else reason
            told.append(f"{whose} to {_listed(questions)}")
        else:
            refused = logprobs and any(_OF_LOGPROBS.search(each) for each in questions.values())
            remedy = f" (an endpoint that gives no log-probabilities: set {field}.top_logprobs = 0)" if refused else ""
            said = next((f", {shorten(each, _LONGEST_SAID)!r}" for each in questions.values() if each), "")
            told.append(f"{_counted(questions)}: {reason}{said}{remedy}")
    return f"failed: {'; '.join(told)}" if told else ""


def _counted(questions: Mapping[str, str]) -> str:
    return f"{len(questions)} question{'s' if len(questions) != 1 else ''}"


def _listed(questions: Mapping[str, str]) -> str:
    more = ", …" if len(questions) > _LISTED else ""
    return f"{_counted(questions)} ({', '.join(list(questions)[:_LISTED])}{more})"
