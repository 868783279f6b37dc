"""Vicuna-Instructions asked of a student: a referee scores its answer and the baseline's, in one order or in both.

The prompt is our own, so that figures are near published ones and not equal to them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from tapir_core.config import Sampling, VicunaBenchmark
from tapir_core.evaluation.benchmarks.baseline import BaselineStudent
from tapir_core.evaluation.benchmarks.failures import Failures
from tapir_core.evaluation.benchmarks.mt_bench import baseline_name, read_baseline
from tapir_core.evaluation.benchmarks.types import (
    NO_ANSWER,
    NO_BASELINE,
    Exchange,
    Game,
    ItemValues,
    Judged,
    Order,
    Place,
    Reading,
    Score,
    failed,
    in_percent,
    items_table,
    mean_value,
    position_note,
    score,
    withhold_categories,
)
from tapir_core.evaluation.mt_bench import temperature_of
from tapir_core.evaluation.questions import read_questions
from tapir_core.evaluation.statistics import ALL, by_category
from tapir_core.evaluation.vicuna import Review, measure_reviews, parse_review, request_kind
from tapir_core.judging.prompt import neutralise
from tapir_core.prompts import Prompt
from tapir_core.replies import Unparsed

__all__ = ["Vicuna"]

_MODE, _PROMPT = "review", "vicuna"
_TAGS = ("question", "response_1", "response_2")
_ORDERS: dict[str, tuple[Order, ...]] = {
    "both": ("model_first", "baseline_first"),
    "baseline_first": ("baseline_first",),
}


@dataclass(frozen=True, slots=True)
class Vicuna:
    """The benchmark ``name`` with its settings."""

    name: str
    settings: VicunaBenchmark
    against: BaselineStudent | None = None
    """The student of another run, where the baseline is no file."""

    def items(self) -> pl.DataFrame:
        """The questions, one turn each, with the baseline's answers; one that it lacks is nothing, and has failed."""
        questions = [replace(each, turns=each.turns[:1]) for each in read_questions(self.settings.questions)]
        baseline = read_baseline(f"evaluation.benchmarks.{self.name}", self.settings, self.against, questions)
        return items_table(
            (each.question, each.category, 1, each.turns[0], None, baseline[each.question][0]) for each in questions
        )

    def answering(self, category: str, _student: Sampling) -> Sampling:
        """Temperature by category, as in MT-Bench."""
        return Sampling(temperature=temperature_of(category), max_tokens=self.settings.max_tokens)

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

    def scores(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judged]) -> list[Score]:
        """Relative quality and wins, of all questions and by category."""
        return withhold_categories(self._scores(exchanges, judged))

    def values(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judged]) -> dict[str, ItemValues]:
        """The model's score minus the baseline's, in points; the ratio of sums has no value of one question."""
        leads: ItemValues = {}
        for each in exchanges:
            found = [
                judged.get((each.question_id, 1, _MODE, order), Judged()) for order in _ORDERS[self.settings.orders]
            ]
            leads[each.question_id] = mean_value([_lead(one) for one in found])
        return {"score_lead": leads}

    def _scores(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judged]) -> Iterator[Score]:
        reviews = [
            _review(each, order, judged.get((each.question_id, 1, _MODE, order), Judged()))
            for each in exchanges
            for order in _ORDERS[self.settings.orders]
        ]
        limit, whose = self.settings.max_failed_share, baseline_name(self.settings, self.against)
        failures = Failures(f"evaluation.benchmarks.{self.name}", whose).in_words(judged)
        for category, figures in by_category(
            reviews, lambda rows: measure_reviews(rows, max_failed_share=limit)
        ).items():
            sums = f"sum of scores {figures.model_sum:.1f} to {figures.baseline_sum:.1f}"
            outcomes = figures.outcomes
            counts = f"{outcomes.wins} wins, {outcomes.losses} losses, {outcomes.ties} ties"
            told = failures if category == ALL else ""
            yield score("relative_quality", in_percent(figures.relative), category, sums, told)
            yield score("review_win_rate_adjusted", in_percent(outcomes.win_rate_adjusted), category, counts)
            if category == ALL and self.settings.orders == "both":
                yield score("review_position_gap", figures.order_gap, category, position_note(figures.favoured))

    def _game(self, exchange: Exchange, order: Order, prompt: Prompt) -> Game:
        [turn] = exchange.turns
        if turn.response is None or turn.baseline is None:
            return failed(exchange, 1, _MODE, order, NO_ANSWER if turn.response is None else NO_BASELINE)
        both = (turn.response, turn.baseline) if order == "model_first" else (turn.baseline, turn.response)
        first, second = (neutralise(text, _TAGS) for text in both)
        text = prompt.render(
            kind=request_kind(exchange.category),
            question=neutralise(turn.question, _TAGS),
            response_1=first,
            response_2=second,
        )
        return Game(exchange.question_id, exchange.category, 1, _MODE, order, text, _PROMPT)


def _lead(found: Judged) -> float | None:
    if found.value is None or found.baseline_value is None:
        return None
    return found.value - found.baseline_value


def _review(exchange: Exchange, order: Order, found: Judged) -> Review:
    scores = None if found.value is None or found.baseline_value is None else (found.value, found.baseline_value)
    return Review(exchange.question_id, exchange.category, order == "model_first", scores)
