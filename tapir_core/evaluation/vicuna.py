"""Vicuna-Instructions: 80 questions, a model against a baseline, both scored 1-10 in one review. Pure.

Grain: a ``Review`` is one judge reply on one question in one order. Source: the referee of the Vicuna blog (2023),
which asks in one order, sums the scores and compares the sums. With reviews in both orders a question has the mean of
its two; where one of them failed, the question did.

Departures: a reply on mathematics states its scores as a tuple at its end, where the referee's rule (first line) never
found them and a person typed them in. They are read there. And scores off the scale are none, since one reply in per
cent would outweigh ten others in a sum; 0, below the scale that is asked for, counts as in the published reviews.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal

from tapir_core.evaluation.pairwise import NUMBER, Outcomes, Winner, measure_outcomes
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE, Figure, mean_figure, ratio_figure
from tapir_core.judging.agreement import favoured_position
from tapir_core.judging.verdict import PairScores
from tapir_core.replies import Unparsed

__all__ = ["Review", "ReviewFigures", "measure_reviews", "parse_first_line", "parse_review", "request_kind"]

_TUPLE = re.compile(rf"\(\s{{0,8}}{NUMBER}\s{{0,8}},\s{{0,8}}{NUMBER}\s{{0,8}}\)")
_LOWEST, _HIGHEST = 0, 10
_DIGITS = 9
"""Scores with decimals must not miss a tie by a rounding error."""


@dataclass(frozen=True, slots=True)
class Review:
    """Both scores of one question, in one order."""

    question: str
    category: str
    model_first: bool
    """Whether the model's answer stood first."""
    scores: tuple[float, float] | None
    """The model's and the baseline's; None when the review failed."""


@dataclass(frozen=True, slots=True)
class ReviewFigures:
    """The model against the baseline over the questions that were scored."""

    model_sum: float
    baseline_sum: float
    relative: Figure
    """Sum of the model's scores ÷ sum of the baseline's: its relative quality."""
    outcomes: Outcomes
    """By the higher score."""
    order_gap: Figure
    """Points by which standing first raises the difference of the scores; none with one order."""

    @property
    def favoured(self) -> Literal["first", "second", "neither"] | None:
        """The position that the judge favours; None where both orders were not asked, or too few questions tell."""
        return favoured_position(self.order_gap.estimate)


def request_kind(category: str) -> Literal["general", "coding", "math"]:
    """Which of the referee's three requests a question goes with."""
    return "coding" if category == "coding" else "math" if category == "math" else "general"


def parse_review(reply: str | None, category: str) -> PairScores | Unparsed:
    """The scores of a reply, 0-10: on its first line; on mathematics the last tuple of it, where there is one."""
    stated = _TUPLE.findall(reply or "") if request_kind(category) == "math" else []
    found = PairScores(*map(float, stated[-1])) if stated else parse_first_line(reply)
    if isinstance(found, PairScores) and not all(_LOWEST <= each <= _HIGHEST for each in astuple(found)):
        return Unparsed(f"score outside {_LOWEST}-{_HIGHEST}")
    return found


def parse_first_line(reply: str | None) -> PairScores | Unparsed:
    """The referee's own rule: the first line is two numbers with one blank or one comma between them, and no more."""
    parts = (reply or "").split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = map(float, parts)
    except ValueError:
        return Unparsed("no scores")
    return PairScores(first, second) if math.isfinite(first) and math.isfinite(second) else Unparsed("no scores")


def measure_reviews(reviews: Sequence[Review], *, max_failed_share: float = MAX_FAILED_SHARE) -> ReviewFigures:
    """Sums, relative quality and outcomes over questions."""
    questions: dict[str, list[Review]] = {}
    for review in reviews:
        questions.setdefault(review.question, []).append(review)
    means = [_mean_scores(of) for of in questions.values()]
    kept = [each for each in means if each is not None]
    gaps = [_order_gap(of) for of in questions.values() if len({review.model_first for review in of}) == 2]
    return ReviewFigures(
        math.fsum(model for model, _ in kept),
        math.fsum(baseline for _, baseline in kept),
        ratio_figure(means, max_failed_share=max_failed_share),
        measure_outcomes([_winner(each) for each in means], list(questions), max_failed_share=max_failed_share),
        mean_figure(gaps, max_failed_share=max_failed_share),
    )


def _mean_scores(reviews: Sequence[Review]) -> tuple[float, float] | None:
    """Model and baseline, over the orders of one question; None when one of them failed."""
    kept = [review.scores for review in reviews if review.scores is not None]
    if len(kept) < len(reviews):
        return None
    model, baseline = (math.fsum(scores) / len(kept) for scores in zip(*kept, strict=True))
    return round(model, _DIGITS), round(baseline, _DIGITS)


def _order_gap(reviews: Sequence[Review]) -> float | None:
    """The model's lead where it stands first minus its lead where it stands second."""
    leads: dict[bool, float] = {}
    for review in reviews:
        if review.scores is None:
            return None
        model, baseline = review.scores
        leads[review.model_first] = model - baseline
    return leads[True] - leads[False]


def _winner(scores: tuple[float, float] | None) -> Winner | None:
    if scores is None:
        return None
    model, baseline = scores
    return "tie" if model == baseline else "model" if model > baseline else "baseline"
