"""MT-Bench: two turns a question, ratings of a student's answers, or pairs with a baseline's in both orders.

Grain: a ``Rating`` is one judge reply on one turn of one question. Source: FastChat (`fastchat/llm_judge`). Its rule
for a rating is kept, the absent check of the scale too: ``[[11]]`` is 11. Departures: a failed rating is None and not
-1; ``[[08]]``, on which the original fails, is 8. The prompts are our own and each is one user message, so that figures
are near published ones and not equal to them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import polars as pl

from tapir_core.config import MTBenchBenchmark
from tapir_core.errors import ConfigError
from tapir_core.evaluation.benchmark import Exchange, Game, Reading, items_table, register
from tapir_core.evaluation.fastchat import (
    NUMBER,
    WINS,
    FastChat,
    Pair,
    Winner,
    check_references,
    measure_pairs,
    needs_reference,
    parse_pair_verdict,
    read_answers,
    read_questions,
    winner_of_game,
)
from tapir_core.evaluation.scores import (
    NO_ANSWER,
    NO_BASELINE,
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
from tapir_core.evaluation.statistics import ALL, MAX_FAILED_SHARE, Figure, by_category, mean_figure
from tapir_core.judging.prompt import neutralise
from tapir_core.prompts import Prompt
from tapir_core.text import Unparsed

__all__ = ["MTBench", "Rating", "RatingFigures", "measure_ratings", "parse_rating"]

_SINGLE, _PAIR = "single", "pairwise"
_PROMPTS = {_SINGLE: "mt_bench_single", _PAIR: "mt_bench_pair"}
_BOTH: tuple[Order, ...] = ("model_first", "baseline_first")
_TAGS = (
    *("question", "answer_a", "answer_b"),
    *("follow_up", "follow_up_answer", "follow_up_answer_a", "follow_up_answer_b", "follow_up_reference"),
)
_VERDICT = re.compile(r"\[(?=\[[ABC]\]\])")
"""A verdict of pairs in a text that is judged: a judge who quotes it would give it."""
_WINNERS: dict[float, Winner] = {value: winner for winner, value in WINS.items()}
_SCALE = (1.0, 10.0)
"""What the judge is asked for; not checked."""
_RATINGS = (re.compile(rf"\[\[{NUMBER}\]\]"), re.compile(rf"\[{NUMBER}\]"))


@dataclass(frozen=True, slots=True)
class Rating:
    """What the judge gave one turn."""

    question: str
    category: str
    turn: int
    """1 or 2."""
    rating: float | None
    """None when it failed."""


@dataclass(frozen=True, slots=True)
class RatingFigures:
    """Mean ratings, 1-10."""

    turn_1: Figure
    turn_2: Figure
    average: Figure
    """Of all ratings together, not of the two means: the MT-Bench score."""


@register(MTBenchBenchmark)
class MTBench(FastChat[MTBenchBenchmark]):
    """The benchmark with its settings."""

    labels: ClassVar[Mapping[str, str]] = {
        "rating": "rating, 1–10",
        "rating_turn_1": "rating of turn 1, 1–10",
        "rating_turn_2": "rating of turn 2, 1–10",
        "pair_win_rate_adjusted": "pairs: wins and half of the ties, %",
        "pair_win_rate": "pairs: wins, %",
        "pair_loss_rate": "pairs: losses, %",
        "pair_position_gap": "pairs: gain by standing first, points",
    }
    headlines = ("rating", "pair_win_rate_adjusted")

    def items(self) -> pl.DataFrame:
        """All turns, with references in the categories that have them, and with a baseline's answers for pairs.

        An answer that the baseline lacks is nothing, and its pairs count as failed.
        """
        where, settings = self.where, self.settings
        questions = read_questions(settings.questions)
        if long := [each.question for each in questions if len(each.turns) > 2]:
            raise ConfigError(f"{where}.questions: question {', '.join(long)} has more than two turns")
        references = {} if settings.references is None else read_answers(settings.references)
        try:
            check_references(questions, references)
        except ConfigError as exc:
            raise ConfigError(f"{where}.references: {exc}") from exc
        baseline = self.read_baseline(questions) if _PAIR in settings.modes else {}
        return items_table(
            (
                *(each.question, each.category, turn + 1, text),
                references[each.question][turn] if needs_reference(each.category) else None,
                baseline[each.question][turn] if baseline else None,
            )
            for each in questions
            for turn, text in enumerate(each.turns)
        )

    def games(self, exchange: Exchange, prompts: Mapping[str, Prompt]) -> list[Game]:
        """For each turn a rating, a pair in both orders, or all three."""
        places = [(mode, order) for mode in self.settings.modes for order in (_BOTH if mode == _PAIR else ("single",))]
        return [
            self._game(exchange, turn, mode, order, prompts)
            for turn, (mode, order) in product(range(1, len(exchange.turns) + 1), places)
        ]

    def read(self, game: Game, text: str, _logprobs: Mapping[str, float]) -> Reading | Unparsed:
        """A rating; of a pair 1 where the model won, 0.5 for a tie, 0 where the baseline did."""
        if game.mode == _SINGLE:
            rating = parse_rating(text)
            return rating if isinstance(rating, Unparsed) else Reading(rating)
        verdict = parse_pair_verdict(text)
        if isinstance(verdict, Unparsed):
            return verdict
        return Reading(WINS[winner_of_game(verdict, model_first=game.order == "model_first")])

    def scores(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> list[Score]:
        """Of each mode the figures of all questions, then by category."""
        found: list[Score] = []
        if _SINGLE in self.settings.modes:
            found += self._ratings(exchanges, judged)
        if _PAIR in self.settings.modes:
            found += self._pairs(exchanges, judged)
        return withhold_categories(found)

    def values(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> dict[str, ItemValues]:
        """Of both turns together: the mean rating, the share of a win in per cent."""
        found: dict[str, ItemValues] = {}
        if _SINGLE in self.settings.modes:
            found["rating"] = {
                each.question_id: mean_value(
                    [_value(judged, each, turn, _SINGLE, "single") for _, turn in _turns([each])]
                )
                for each in exchanges
            }
        if _PAIR in self.settings.modes:
            found["pair_win_rate_adjusted"] = {
                each.question_id: mean_value([_win(pair.winner) for pair in self._paired([each], judged)])
                for each in exchanges
            }
        return found

    def _ratings(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> Iterator[Score]:
        ratings = [
            Rating(each.question_id, each.category, turn, _value(judged, each, turn, _SINGLE, "single"))
            for each, turn in _turns(exchanges)
        ]
        limit, failures = self.settings.max_failed_share, self.failures(judged, _SINGLE)
        for category, figures in by_category(
            ratings, lambda rows: measure_ratings(rows, max_failed_share=limit)
        ).items():
            yield score("rating", figures.average, category, failures=failures if category == ALL else "")
            yield score("rating_turn_1", figures.turn_1, category)
            yield score("rating_turn_2", figures.turn_2, category)

    def _pairs(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> Iterator[Score]:
        pairs = self._paired(exchanges, judged)
        limit, failures = self.settings.max_failed_share, self.failures(judged, _PAIR)
        for category, figures in by_category(pairs, lambda rows: measure_pairs(rows, max_failed_share=limit)).items():
            outcomes, told = figures.outcomes, failures if category == ALL else ""
            adjusted = in_percent(outcomes.win_rate_adjusted)
            yield score("pair_win_rate_adjusted", adjusted, category, outcomes.in_words, told)
            yield score("pair_win_rate", in_percent(outcomes.win_rate), category)
            yield score("pair_loss_rate", in_percent(outcomes.loss_rate), category)
            if category == ALL:
                note = position_note(figures.favoured)
                yield score("pair_position_gap", in_percent(figures.order_gap), category, note)

    def _paired(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> list[Pair]:
        pairs = []
        for each, turn in _turns(exchanges):
            values = [_value(judged, each, turn, _PAIR, order) for order in _BOTH]
            winners = [None if value is None else _WINNERS[value] for value in values]
            pairs.append(Pair(each.question_id, each.category, turn, *winners))
        return pairs

    def _game(self, exchange: Exchange, turn: int, mode: str, order: Order, prompts: Mapping[str, Prompt]) -> Game:
        shown = exchange.turns[:turn]
        lacking = {each.lacking for each in shown}
        for reason in (NO_ANSWER, NO_BASELINE) if mode == _PAIR else (NO_ANSWER,):
            if reason in lacking:
                return exchange.game(turn, mode, order, None, reason=reason)
        sections: dict[str, str | None] = {}
        for each, (question, prefix) in zip(shown, (("question", ""), ("follow_up", "follow_up_")), strict=False):
            sections |= {question: each.question, f"{prefix}reference": each.reference}
            if mode == _SINGLE:
                sections[f"{prefix}answer"] = each.response
            else:
                sections |= dict(zip((f"{prefix}answer_a", f"{prefix}answer_b"), each.shown(order), strict=True))
        safe = {**dict.fromkeys(_TAGS, ""), **{tag: _harmless(text or "") for tag, text in sections.items()}}
        text = prompts[_PROMPTS[mode]].render(**safe)
        return exchange.game(turn, mode, order, text, prompt=_PROMPTS[mode])


def parse_rating(reply: str | None) -> float | Unparsed:
    """The first number in double brackets; where there is none, the first in single ones."""
    found = next((match for form in _RATINGS if (match := form.search(reply or ""))), None)
    return Unparsed("no rating") if found is None else float(found[1])


def measure_ratings(ratings: Sequence[Rating], *, max_failed_share: float = MAX_FAILED_SHARE) -> RatingFigures:
    """Means over the ratings that did not fail; intervals take questions as independent, not turns."""

    def mean(of: Sequence[Rating]) -> Figure:
        values, questions = [each.rating for each in of], [each.question for each in of]
        return mean_figure(values, clusters=questions, scale=_SCALE, max_failed_share=max_failed_share)

    first, second = ([each for each in ratings if each.turn == turn] for turn in (1, 2))
    return RatingFigures(mean(first), mean(second), mean(ratings))


def _harmless(text: str) -> str:
    """A text that closes no section and gives no verdict."""
    return _VERDICT.sub("[ ", neutralise(text, _TAGS))


def _win(winner: Winner | None) -> float | None:
    return None if winner is None else 100 * WINS[winner]


def _turns(exchanges: Sequence[Exchange]) -> Iterator[tuple[Exchange, int]]:
    return ((each, turn) for each in exchanges for turn in range(1, len(each.turns) + 1))


def _value(judged: Mapping[Place, Judgment], exchange: Exchange, turn: int, mode: str, order: Order) -> float | None:
    return judged.get((exchange.question_id, turn, mode, order), Judgment()).value
