"""Vicuna-Instructions: 80 questions; a referee scores a student's answer and a baseline's, 1-10, in one review.

Grain: a review is one judge reply on one question in one order. Source: the referee of the Vicuna blog (2023),
which asks in one order, sums the scores and compares the sums. With reviews in both orders a question has the mean of
its two; where one of them failed, the question did. The prompt is our own, so that figures are near published ones and
not equal to them.

Departures: a reply on mathematics states its scores as a tuple at its end, where the referee's rule (first line) never
found them and a person typed them in. They are read there. And scores off the scale are none, since one reply in per
cent would outweigh ten others in a sum; 0, below the scale that is asked for, counts as in the published reviews.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import ClassVar, Literal

import polars as pl

from tapir_core.config.benchmarks import VicunaBenchmark
from tapir_core.evaluation.benchmark import Exchange, Game, items_table, register
from tapir_core.evaluation.mt_bench import NUMBER, FastChat, read_questions
from tapir_core.evaluation.scores import ItemValues, Judgment, Order, Place, by_question, position_note
from tapir_core.judging.prompt import neutralise
from tapir_core.judging.verdict import PairScores
from tapir_core.prompts import Prompt
from tapir_core.statistics import MAX_FAILED_SHARE, SHARE, Estimate, estimate_mean, estimate_ratio, in_percent
from tapir_core.text import Unparsed

Review = tuple[float, float] | None
"""The model's score and the baseline's in one reply; None where it failed."""

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


@register(VicunaBenchmark)
class Vicuna(FastChat[VicunaBenchmark]):
    """The benchmark with its settings."""

    labels: ClassVar[Mapping[str, str]] = {
        "relative_quality": "relative quality, %",
        "score_lead": "lead over the baseline, points of the scale",
        "review_win_rate_adjusted": "reviews: wins and half of the ties, %",
        "review_position_gap": "reviews: gain by standing first, points of the scale",
    }

    def items(self) -> pl.DataFrame:
        """The questions, one turn each, with the baseline's answers."""
        questions = read_questions(self.settings.questions)
        return self.with_baseline(
            items_table((each.question, each.category, 1, each.turns[0], None, None) for each in questions)
        )

    def games(self, exchange: Exchange, prompts: Mapping[str, Prompt]) -> list[Game]:
        """A review in each order."""
        return [self._game(exchange, order, prompts[_PROMPT]) for order in _ORDERS[self.settings.orders]]

    def read(self, game: Game, text: str, _logprobs: Mapping[str, float]) -> Judgment | Unparsed:
        """Both scores (1-10), the model's first."""
        found = parse_review(text, game.category)
        if isinstance(found, Unparsed):
            return found
        return Judgment(*(found if game.order == "model_first" else found[::-1]))

    def figures(
        self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment], *, whole: bool
    ) -> dict[str, Estimate]:
        """Relative quality and wins, and of all questions what standing first is worth."""
        found = measure_reviews(self._reviews(exchanges, judged), max_failed_share=self.settings.max_failed_share)
        return found if whole else {name: each for name, each in found.items() if name != "review_position_gap"}

    def values(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> dict[str, ItemValues]:
        """The model's score minus the baseline's, in points; the ratio of sums has no value of one question."""
        reviews = self._reviews(exchanges, judged)
        leads = {(question, order): _lead(each) for question, of in reviews.items() for order, each in of.items()}
        return {"score_lead": by_question(leads)}

    def _reviews(
        self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]
    ) -> dict[str, dict[Order, Review]]:
        found: dict[str, dict[Order, Review]] = {}
        for each, order in product(exchanges, _ORDERS[self.settings.orders]):
            said = judged.get((each.question_id, 1, _MODE, order), Judgment())
            scored = None if said.value is None or said.baseline_value is None else (said.value, said.baseline_value)
            found.setdefault(each.question_id, {})[order] = scored
        return found

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
    if isinstance(found, PairScores) and not all(_LOWEST <= each <= _HIGHEST for each in found):
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


def measure_reviews(
    reviews: Mapping[str, Mapping[Order, Review]], *, max_failed_share: float = MAX_FAILED_SHARE
) -> dict[str, Estimate]:
    """The model against the baseline over questions: relative quality (a ratio of sums), wins by the higher score.

    With both orders also by how many points standing first raises the model's lead.

    Args:
        reviews: question → order → both scores.
        max_failed_share: above this share of failed ones (0-1) there is no figure.
    """
    means = [_mean_scores([*of.values()]) for of in reviews.values()]
    kept = [each for each in means if each is not None]
    model, baseline = (math.fsum(each[side] for each in kept) for side in (0, 1))
    quality = in_percent(estimate_ratio(means, max_failed_share=max_failed_share))
    winners = [None if each is None else 0.5 if each[0] == each[1] else float(each[0] > each[1]) for each in means]
    wins = estimate_mean(winners, clusters=[*reviews], scale=SHARE, max_failed_share=max_failed_share)
    counts = f"{winners.count(1.0)} wins, {winners.count(0.0)} losses, {winners.count(0.5)} ties"
    found = {
        "relative_quality": quality.with_note(f"sum of scores {model:.1f} to {baseline:.1f}"),
        "review_win_rate_adjusted": in_percent(wins).with_note(counts),
    }
    leads = [[_lead(of[order]) for order in _ORDERS["both"]] for of in reviews.values() if len(of) == 2]
    gaps = [None if first is None or second is None else first - second for first, second in leads]
    if gaps:
        gap = estimate_mean(gaps, max_failed_share=max_failed_share)
        found["review_position_gap"] = gap.with_note(position_note(gap))
    return found


def _mean_scores(reviews: Sequence[Review]) -> Review:
    """Model and baseline, over the orders of one question; None when one of them failed."""
    kept = [scores for scores in reviews if scores is not None]
    if len(kept) < len(reviews):
        return None
    model, baseline = (math.fsum(scores) / len(kept) for scores in zip(*kept, strict=True))
    return round(model, _DIGITS), round(baseline, _DIGITS)


def _lead(scores: Review) -> float | None:
    return None if scores is None else scores[0] - scores[1]
