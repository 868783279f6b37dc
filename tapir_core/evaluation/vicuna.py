"""Vicuna-Instructions: 80 questions; a referee scores a student's answer and a baseline's, 1-10, in one review.

Grain: a ``Review`` is one judge reply on one question in one order. Source: the referee of the Vicuna blog (2023),
which asks in one order, sums the scores and compares the sums. With reviews in both orders a question has the mean of
its two; where one of them failed, the question did. The prompt is our own, so that figures are near published ones and
not equal to them.

Departures: a reply on mathematics states its scores as a tuple at its end, where the referee's rule (first line) never
found them and a person typed them in. They are read there. And scores off the scale are none, since one reply in per
cent would outweigh ten others in a sum; 0, below the scale that is asked for, counts as in the published reviews.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import ClassVar, Literal

import polars as pl

from tapir_core.config import VicunaBenchmark
from tapir_core.evaluation.benchmark import Exchange, Game, Reading, items_table, register
from tapir_core.evaluation.fastchat import NUMBER, FastChat, Outcomes, Winner, measure_outcomes, read_questions
from tapir_core.evaluation.scores import (
    ItemValues,
    Judgment,
    Order,
    Place,
    Score,
    in_percent,
    mean_value,
    position_note,
    score,
    withhold_categories,
)
from tapir_core.evaluation.statistics import ALL, MAX_FAILED_SHARE, Figure, by_category, mean_figure, ratio_figure
from tapir_core.judging.agreement import favoured_position
from tapir_core.judging.prompt import neutralise
from tapir_core.judging.verdict import PairScores
from tapir_core.prompts import Prompt
from tapir_core.text import Unparsed

__all__ = ["Review", "ReviewFigures", "Vicuna", "measure_reviews", "parse_first_line", "parse_review", "request_kind"]

_MODE, _PROMPT = "review", "vicuna"
_TAGS = ("question", "response_1", "response_2")
_ORDERS: dict[str, tuple[Order, ...]] = {
    "both": ("model_first", "baseline_first"),
    "baseline_first": ("baseline_first",),
}
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


@register(VicunaBenchmark)
class Vicuna(FastChat[VicunaBenchmark]):
    """The benchmark with its settings."""

    labels: ClassVar[Mapping[str, str]] = {
        "relative_quality": "relative quality, %",
        "score_lead": "lead over the baseline, points of the scale",
        "review_win_rate_adjusted": "reviews: wins and half of the ties, %",
        "review_position_gap": "reviews: gain by standing first, points of the scale",
    }
    headlines = ("relative_quality",)

    def items(self) -> pl.DataFrame:
        """The questions, one turn each, with the baseline's answers; one that it lacks is nothing, and has failed."""
        questions = [replace(each, turns=each.turns[:1]) for each in read_questions(self.settings.questions)]
        baseline = self.read_baseline(questions)
        return items_table(
            (each.question, each.category, 1, each.turns[0], None, baseline[each.question][0]) for each in questions
        )

    def games(self, exchange: Exchange, prompts: Mapping[str, Prompt]) -> list[Game]:
        """A review in each order."""
        return [self._game(exchange, order, prompts[_PROMPT]) for order in _ORDERS[self.settings.orders]]

    def read(self, game: Game, text: str, _logprobs: Mapping[str, float]) -> Reading | Unparsed:
        """Both scores (1-10), the model's first."""
        found = parse_review(text, game.category)
        if isinstance(found, Unparsed):
            return found
        shown = (found.answer_1, found.answer_2)
        return Reading(*(shown if game.order == "model_first" else shown[::-1]))

    def scores(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> list[Score]:
        """Relative quality and wins, of all questions and by category."""
        return withhold_categories(self._scores(exchanges, judged))

    def values(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> dict[str, ItemValues]:
        """The model's score minus the baseline's, in points; the ratio of sums has no value of one question."""
        leads: ItemValues = {}
        for each in exchanges:
            found = [
                judged.get((each.question_id, 1, _MODE, order), Judgment()) for order in _ORDERS[self.settings.orders]
            ]
            leads[each.question_id] = mean_value([_lead(one) for one in found])
        return {"score_lead": leads}

    def _scores(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> Iterator[Score]:
        reviews = [
            _review(each, order, judged.get((each.question_id, 1, _MODE, order), Judgment()))
            for each in exchanges
            for order in _ORDERS[self.settings.orders]
        ]
        limit, failures = self.settings.max_failed_share, self.failures(judged)
        for category, figures in by_category(
            reviews, lambda rows: measure_reviews(rows, max_failed_share=limit)
        ).items():
            sums = f"sum of scores {figures.model_sum:.1f} to {figures.baseline_sum:.1f}"
            outcomes, told = figures.outcomes, failures if category == ALL else ""
            yield score("relative_quality", in_percent(figures.relative), category, sums, told)
            yield score("review_win_rate_adjusted", in_percent(outcomes.win_rate_adjusted), category, outcomes.in_words)
            if category == ALL and self.settings.orders == "both":
                yield score("review_position_gap", figures.order_gap, category, position_note(figures.favoured))

    def _game(self, exchange: Exchange, order: Order, prompt: Prompt) -> Game:
        [turn] = exchange.turns
        if turn.lacking:
            return exchange.game(1, _MODE, order, None, reason=turn.lacking)
        shown = (neutralise(text, _TAGS) for text in (turn.question, *turn.shown(order)))
        text = prompt.render(kind=request_kind(exchange.category), **dict(zip(_TAGS, shown, strict=True)))
        return exchange.game(1, _MODE, order, text, prompt=_PROMPT)


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


def _lead(found: Judgment) -> float | None:
    if found.value is None or found.baseline_value is None:
        return None
    return found.value - found.baseline_value


def _review(exchange: Exchange, order: Order, found: Judgment) -> Review:
    scores = None if found.value is None or found.baseline_value is None else (found.value, found.baseline_value)
    return Review(exchange.question_id, exchange.category, order == "model_first", scores)
