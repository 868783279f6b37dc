"""MT-Bench: two turns a question, ratings of a student's answers, or pairs with a baseline's in both orders.

Grain: a rating is one judge reply on one turn of one question. Source: FastChat (`fastchat/llm_judge`). Its rule
for a rating is kept, the absent check of the scale too: ``[[11]]`` is 11. Departures: a failed rating is None and not
-1; ``[[08]]``, on which the original fails, is 8. The prompts are our own and each is one user message, so that figures
are near published ones and not equal to them.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import ClassVar

import polars as pl

from tapir_core.config import MTBenchBenchmark
from tapir_core.errors import ConfigError
from tapir_core.evaluation.benchmark import Exchange, Game, Reading, items_table, register
from tapir_core.evaluation.fastchat import (
    NUMBER,
    FastChat,
    check_references,
    combine_games,
    measure_pairs,
    needs_reference,
    parse_pair_verdict,
    read_answers,
    read_questions,
    win_of_game,
)
from tapir_core.evaluation.scores import (
    NO_ANSWER,
    NO_BASELINE,
    ItemValues,
    Judgment,
    Order,
    Place,
    by_question,
    value_at,
)
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE, Figure, mean_figure
from tapir_core.judging.prompt import neutralise
from tapir_core.prompts import Prompt
from tapir_core.text import Unparsed

_SINGLE, _PAIR = "single", "pairwise"
_PROMPTS = {_SINGLE: "mt_bench_single", _PAIR: "mt_bench_pair"}
_BOTH: tuple[Order, ...] = ("model_first", "baseline_first")
_TAGS = (
    *("question", "answer_a", "answer_b"),
    *("follow_up", "follow_up_answer", "follow_up_answer_a", "follow_up_answer_b", "follow_up_reference"),
)
_VERDICT = re.compile(r"\[(?=\[[ABC]\]\])")
"""A verdict of pairs in a text that is judged: a judge who quotes it would give it."""
_SCALE = (1.0, 10.0)
"""What the judge is asked for; not checked."""
_RATINGS = (re.compile(rf"\[\[{NUMBER}\]\]"), re.compile(rf"\[{NUMBER}\]"))


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
        shown = parse_pair_verdict(text)
        if isinstance(shown, Unparsed):
            return shown
        return Reading(win_of_game(shown, model_first=game.order == "model_first"))

    @property
    def modes(self) -> tuple[str, ...]:
        """Ratings first, then pairs."""
        return tuple(mode for mode in (_SINGLE, _PAIR) if mode in self.settings.modes)

    def figures(
        self, mode: str, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment], *, whole: bool
    ) -> dict[str, Figure]:
        """Mean ratings; or wins and losses, and of all questions what standing first is worth."""
        limit = self.settings.max_failed_share
        if mode == _SINGLE:
            return measure_ratings(_ratings(exchanges, judged), max_failed_share=limit)
        found = measure_pairs(_pairs(exchanges, judged), max_failed_share=limit)
        return found if whole else {name: each for name, each in found.items() if name != "pair_position_gap"}

    def values(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> dict[str, ItemValues]:
        """Of both turns together: the mean rating, the share of a win in per cent."""
        found: dict[str, ItemValues] = {}
        if _SINGLE in self.modes:
            found["rating"] = by_question(_ratings(exchanges, judged))
        if _PAIR in self.modes:
            wins = {place: combine_games(*games) for place, games in _pairs(exchanges, judged).items()}
            found["pair_win_rate_adjusted"] = by_question(
                {place: None if win is None else 100 * win for place, win in wins.items()}
            )
        return found

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
        # A text that closes no section and gives no verdict.
        safe = {tag: _VERDICT.sub("[ ", neutralise(sections.get(tag) or "", _TAGS)) for tag in {*_TAGS, *sections}}
        text = prompts[_PROMPTS[mode]].render(**safe)
        return exchange.game(turn, mode, order, text, prompt=_PROMPTS[mode])


def parse_rating(reply: str | None) -> float | Unparsed:
    """The first number in double brackets; where there is none, the first in single ones."""
    found = next((match for form in _RATINGS if (match := form.search(reply or ""))), None)
    return Unparsed("no rating") if found is None else float(found[1])


def measure_ratings(
    ratings: Mapping[tuple[str, int], float | None], *, max_failed_share: float = MAX_FAILED_SHARE
) -> dict[str, Figure]:
    """Mean ratings, 1-10: of all together (not of the two means: the MT-Bench score), of turn 1, of turn 2.

    Args:
        ratings: question and turn → rating; None where it failed. Intervals take questions as independent, not turns.
        max_failed_share: above this share of failed ones (0-1) there is no figure.
    """
    found = {}
    for metric, turns in (("rating", (1, 2)), ("rating_turn_1", (1,)), ("rating_turn_2", (2,))):
        of = {question: rating for question, rating in ratings.items() if question[1] in turns}
        clusters = [question for question, _ in of]
        found[metric] = mean_figure([*of.values()], clusters=clusters, scale=_SCALE, max_failed_share=max_failed_share)
    return found


def _turns(exchanges: Sequence[Exchange]) -> list[tuple[str, int]]:
    return [(each.question_id, turn) for each in exchanges for turn in range(1, len(each.turns) + 1)]


def _ratings(exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> dict[tuple[str, int], float | None]:
    return {turn: value_at(judged, (*turn, _SINGLE, "single")) for turn in _turns(exchanges)}


def _pairs(
    exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]
) -> dict[tuple[str, int], tuple[float | None, float | None]]:
    """What the game is worth to the model in which its answer stood first, and the other one."""
    first, second = ({turn: value_at(judged, (*turn, _PAIR, order)) for turn in _turns(exchanges)} for order in _BOTH)
    return {turn: (first[turn], second[turn]) for turn in first}
