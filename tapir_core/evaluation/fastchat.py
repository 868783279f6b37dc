"""MT-Bench and Vicuna-Instructions, the two benchmarks whose questions and answers are FastChat's files.

A question is a line with ``question_id``, ``category`` and ``turns``; an answer one with ``question_id`` and
``choices``, of which the first one's ``turns`` count. Answers of a model may have the form of 2023, in which ``text``
is the answer to the one turn. A question's own ``reference`` field is not read, as in the original. The prompts are our
own and one user message, so that figures are near published ones and not equal to them.

MT-Bench has two turns a question. Grain: a rating is one judge reply on one turn of one question. Source: FastChat
(`fastchat/llm_judge`, single grading). Its rule for a rating is kept, the absent check of the scale too: ``[[11]]`` is
11. Departures: a failed rating is None and not -1; ``[[08]]``, on which the original fails, is 8.

Vicuna-Instructions has 80 questions; a referee scores a student's answer and a baseline's, 1-10, in one review. Grain:
a review is one judge reply on one question in one order. Source: the referee of the Vicuna blog (2023), which asks in
one order, sums the scores and compares the sums. With reviews in both orders a question has the mean of its two; where
one of them failed, the question did. Departures: a reply on mathematics states its scores as a tuple at its end, where
the referee's rule (first line) never found them and a person typed them in. They are read there. And scores off the
scale are none, since one reply in per cent would outweigh ten others in a sum; 0, below the scale that is asked for,
counts as in the published reviews.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar, Literal, TypeVar

import polars as pl

from tapir_core import statistics
from tapir_core.config import Sampling
from tapir_core.config.benchmarks import FastChatBenchmark, MTBenchBenchmark, VicunaBenchmark
from tapir_core.data.records import BadRecordError
from tapir_core.errors import ConfigError
from tapir_core.evaluation import benchmark, rows
from tapir_core.evaluation.scores import NO_ANSWER, ItemValues, Judgment, Order, Place, by_question, position_note
from tapir_core.judging.prompt import neutralise
from tapir_core.prompts import Prompt
from tapir_core.text import Unparsed, encodable

Review = tuple[float, float] | None
"""The model's score and the baseline's in one reply; None where it failed."""

_NUMBER = r"([0-9]{1,8}(?:\.[0-9]{0,8})?)"
"""A rating or a score as these judges write it: digits, perhaps a point, perhaps digits; no sign, no blank."""

WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
"""Categories in which the judge is shown a reference answer."""
_TEMPERATURES = {"extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1, "humanities": 0.1}
"""At which a student answers, in MT-Bench and Vicuna-Instructions alike; in any other category at 0.7."""
_F = TypeVar("_F", bound=FastChatBenchmark)

_SINGLE: Literal["single"] = "single"
"""Mode and order of a rating: one answer is shown."""
_SECTIONS = ("question", "reference", "answer", "follow_up", "follow_up_reference", "follow_up_answer")
"""Of MT-Bench's prompt: what is asked, its reference and the answer, of the first turn and of the second."""
_SINGLE_TAGS = ("question", "follow_up", "follow_up_answer", "follow_up_reference")

_REVIEW = "review"
_REVIEW_TAGS = ("question", "response_1", "response_2")
_ORDERS: dict[str, tuple[Order, ...]] = {
    "both": ("model_first", "baseline_first"),
    "baseline_first": ("baseline_first",),
}

_SCALE = (1.0, 10.0)
"""What the judge is asked for; not checked."""

_RATINGS = (re.compile(rf"\[\[{_NUMBER}\]\]"), re.compile(rf"\[{_NUMBER}\]"))
_TUPLE = re.compile(rf"\(\s{{0,8}}{_NUMBER}\s{{0,8}},\s{{0,8}}{_NUMBER}\s{{0,8}}\)")
_DIGITS = 9
"""Scores with decimals must not miss a tie by a rounding error."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a benchmark."""

    question: str
    """Its id."""
    category: str
    turns: tuple[str, ...]
    """What the user says; the second turn follows the student's own answer to the first."""


class FastChat(benchmark.Judging[_F]):
    """A benchmark with questions and answers in FastChat's form."""

    model_field = "model_id"
    outputs_form = "question_id and choices with turns in each row (FastChat's model_answer)"

    def answering(self, category: str, _student: Sampling) -> Sampling:
        """Temperature by category."""
        return Sampling(temperature=_TEMPERATURES.get(category, 0.7), max_tokens=self.settings.max_tokens)

    def read_outputs(self, path: str, _items: pl.DataFrame) -> dict[tuple[str, int], str | None]:
        """Found by the question's id."""
        return {
            (question, turn): text
            for question, turns in read_answers(path).items()
            for turn, text in enumerate(turns, start=1)
        }


@benchmark.register(MTBenchBenchmark)
class MTBench(FastChat[MTBenchBenchmark]):
    """The benchmark with its settings."""

    labels: ClassVar[Mapping[str, str]] = {
        "rating": "rating, 1–10",
        "rating_turn_1": "rating of turn 1, 1–10",
        "rating_turn_2": "rating of turn 2, 1–10",
    }

    def items(self) -> pl.DataFrame:
        """All turns, with references in the categories that have them."""
        questions, settings = read_questions(self.settings.questions), self.settings
        if long := [each.question for each in questions if len(each.turns) > 2]:
            raise ConfigError(f"{self.where}.questions: question {', '.join(long)} has more than two turns")
        references = {} if settings.references is None else read_answers(settings.references)
        check_references(questions, references, f"{self.where}.references")
        return benchmark.items_table(
            (
                *(each.question, each.category, turn + 1, text),
                references[each.question][turn] if each.category in WITH_REFERENCE else None,
                None,
            )
            for each in questions
            for turn, text in enumerate(each.turns)
        )

    def games(self, exchange: benchmark.Exchange, prompts: Mapping[str, Prompt]) -> list[benchmark.Game]:
        """A rating of each turn."""
        return [self._game(exchange, turn, prompts["mt_bench_single"]) for turn in range(1, len(exchange.turns) + 1)]

    def read(self, _game: benchmark.Game, text: str, _logprobs: Mapping[str, float]) -> Judgment | Unparsed:
        """The rating."""
        rating = parse_rating(text)
        return rating if isinstance(rating, Unparsed) else Judgment(rating)

    def figures(
        self, exchanges: Sequence[benchmark.Exchange], judged: Mapping[Place, Judgment], *, whole: bool
    ) -> dict[str, statistics.Estimate]:
        """Mean ratings."""
        return measure_ratings(_ratings(exchanges, judged), max_failed_share=self.settings.max_failed_share)

    def values(
        self, exchanges: Sequence[benchmark.Exchange], judged: Mapping[Place, Judgment]
    ) -> dict[str, ItemValues]:
        """The mean rating of both turns together."""
        return {"rating": by_question(_ratings(exchanges, judged))}

    def _game(self, exchange: benchmark.Exchange, turn: int, prompt: Prompt) -> benchmark.Game:
        shown = exchange.turns[:turn]
        if any(each.response is None for each in shown):
            return exchange.game(turn, _SINGLE, _SINGLE, None, reading=Judgment(reason=NO_ANSWER))
        texts = [text for each in shown for text in (each.question, each.reference, each.response)]
        safe = {tag: neutralise(text or "", _SINGLE_TAGS) for tag, text in zip_longest(_SECTIONS, texts)}
        return exchange.game(turn, _SINGLE, _SINGLE, prompt.render(**safe), prompt="mt_bench_single")


@benchmark.register(VicunaBenchmark)
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
        return self.with_baseline(
            benchmark.items_table(
                (each.question, each.category, 1, each.turns[0], None, None)
                for each in read_questions(self.settings.questions)
            )
        )

    def games(self, exchange: benchmark.Exchange, prompts: Mapping[str, Prompt]) -> list[benchmark.Game]:
        """A review in each order."""
        return [self._game(exchange, order, prompts["vicuna"]) for order in _ORDERS[self.settings.orders]]

    def read(self, game: benchmark.Game, text: str, _logprobs: Mapping[str, float]) -> Judgment | Unparsed:
        """Both scores (1-10), the model's first."""
        said = parse_review(text, game.category)
        return said if isinstance(said, Unparsed) else Judgment(*(said if game.order == "model_first" else said[::-1]))

    def figures(
        self, exchanges: Sequence[benchmark.Exchange], judged: Mapping[Place, Judgment], *, whole: bool
    ) -> dict[str, statistics.Estimate]:
        """Relative quality and wins, and of all questions what standing first is worth."""
        found = measure_reviews(self._reviews(exchanges, judged), max_failed_share=self.settings.max_failed_share)
        return found if whole else {name: each for name, each in found.items() if name != "review_position_gap"}

    def values(
        self, exchanges: Sequence[benchmark.Exchange], judged: Mapping[Place, Judgment]
    ) -> dict[str, ItemValues]:
        """The model's score minus the baseline's, in points; the ratio of sums has no value of one question."""
        return {
            "score_lead": by_question(
                {
                    (question, order): _lead(each)
                    for question, of in self._reviews(exchanges, judged).items()
                    for order, each in of.items()
                }
            )
        }

    def _reviews(
        self, exchanges: Sequence[benchmark.Exchange], judged: Mapping[Place, Judgment]
    ) -> dict[str, dict[Order, Review]]:
        return {
            each.question_id: {
                order: None
                if (said := judged.get((each.question_id, 1, _REVIEW, order), Judgment())).value is None
                or said.baseline_value is None
                else (said.value, said.baseline_value)
                for order in _ORDERS[self.settings.orders]
            }
            for each in exchanges
        }

    def _game(self, exchange: benchmark.Exchange, order: Order, prompt: Prompt) -> benchmark.Game:
        [turn] = exchange.turns
        if turn.lacking:
            return exchange.game(1, _REVIEW, order, None, reading=Judgment(reason=turn.lacking))
        shown = (neutralise(text, _REVIEW_TAGS) for text in (turn.question, *turn.shown(order)))
        text = prompt.render(kind=request_kind(exchange.category), **dict(zip(_REVIEW_TAGS, shown, strict=True)))
        return exchange.game(1, _REVIEW, order, text, prompt="vicuna")


def read_questions(path: str) -> list[Question]:
    """The questions of a file, in its order.

    Raises:
        ConfigError: the file cannot be read, has a row that is no question, or an id twice.
    """
    questions = rows.read_rows(
        path,
        lambda row: Question(
            _id(row), rows.check_category(rows.text_of(row, "category")), tuple(map(encodable, _turns(row, str)))
        ),
        "question",
    )
    ids = [each.question for each in questions]
    if twice := sorted({each for each in ids if ids.count(each) > 1}):
        raise ConfigError(f"{path!r} has question_id {', '.join(twice)} more than once")
    return questions


def read_answers(path: str) -> dict[str, tuple[str | None, ...]]:
    """Question id → an answer to each turn; of a question that is there twice the last row counts.

    An answer that failed (`null` or ``$ERROR$``) is nothing.

    Raises:
        ConfigError: the file cannot be read, or has a row that is no answer.
    """
    return dict(rows.read_rows(path, _answer, "answer"))


def check_references(questions: Sequence[Question], references: Mapping[str, Sequence[str | None]], field: str) -> None:
    """Every question whose category needs a reference has one for each turn; an empty text is none.

    ``field`` of the configuration, which has them, is named in messages.

    Raises:
        ConfigError: some have none; all are named.
    """
    lacking = [
        each.question
        for each in questions
        if each.category in WITH_REFERENCE
        and sum(bool(text and text.strip()) for text in references.get(each.question, ())[: len(each.turns)])
        < len(each.turns)
    ]
    if lacking:
        raise ConfigError(
            f"{field}: no reference answer to question {', '.join(lacking)}; questions on mathematics, reasoning and "
            "coding are judged against one"
        )


def parse_rating(reply: str | None) -> float | Unparsed:
    """The first number in double brackets; where there is none, the first in single ones."""
    found = next((match for form in _RATINGS if (match := form.search(reply or ""))), None)
    return Unparsed("no rating") if found is None else float(found[1])


def measure_ratings(
    ratings: Mapping[tuple[str, int], float | None], *, max_failed_share: float = statistics.MAX_FAILED_SHARE
) -> dict[str, statistics.Estimate]:
    """Mean ratings, 1-10: of all together (not of the two means: the MT-Bench score), of turn 1, of turn 2.

    Args:
        ratings: question and turn → rating; None where it failed. Intervals take questions as independent, not turns.
        max_failed_share: above this share of failed ones (0-1) there is no figure.
    """
    return {
        metric: statistics.estimate_mean(
            [rating for (_, turn), rating in ratings.items() if turn in turns],
            clusters=[question for question, turn in ratings if turn in turns],
            scale=_SCALE,
            max_failed_share=max_failed_share,
        )
        for metric, turns in (("rating", (1, 2)), ("rating_turn_1", (1,)), ("rating_turn_2", (2,)))
    }


def request_kind(category: str) -> Literal["general", "coding", "math"]:
    """Which of the referee's three requests a question goes with."""
    return "coding" if category == "coding" else "math" if category == "math" else "general"


def parse_review(reply: str | None, category: str) -> tuple[float, float] | Unparsed:
    """The scores of a reply, 0-10: on its first line; on mathematics the last tuple of it, where there is one."""
    stated = _TUPLE.findall(reply or "") if request_kind(category) == "math" else []
    found = (float(stated[-1][0]), float(stated[-1][1])) if stated else parse_first_line(reply)
    is_outside = not isinstance(found, Unparsed) and not all(0 <= each <= 10 for each in found)
    return Unparsed("score outside 0-10") if is_outside else found


def parse_first_line(reply: str | None) -> tuple[float, float] | Unparsed:
    """The referee's own rule: the first line is two numbers with one blank or one comma between them, and no more."""
    parts = (reply or "").split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = map(float, parts)
    except ValueError:
        return Unparsed("no scores")
    return (first, second) if math.isfinite(first) and math.isfinite(second) else Unparsed("no scores")


def measure_reviews(
    reviews: Mapping[str, Mapping[Order, Review]], *, max_failed_share: float = statistics.MAX_FAILED_SHARE
) -> dict[str, statistics.Estimate]:
    """The model against the baseline over questions: relative quality (a ratio of sums), wins by the higher score.

    With both orders also by how many points standing first raises the model's lead.

    Args:
        reviews: question → order → both scores.
        max_failed_share: above this share of failed ones (0-1) there is no figure.
    """
    means = [_mean_scores([*of.values()]) for of in reviews.values()]
    model, baseline = (math.fsum(each[side] for each in means if each is not None) for side in (0, 1))
    quality = statistics.estimate_ratio(means, max_failed_share=max_failed_share)
    winners = [None if each is None else 0.5 if each[0] == each[1] else float(each[0] > each[1]) for each in means]
    wins = statistics.estimate_mean(
        winners, clusters=[*reviews], scale=statistics.SHARE, max_failed_share=max_failed_share
    )
    found = {
        "relative_quality": statistics.in_percent(quality).with_note(f"sum of scores {model:.1f} to {baseline:.1f}"),
        "review_win_rate_adjusted": statistics.in_percent(wins).with_note(
            f"{winners.count(1.0)} wins, {winners.count(0.0)} losses, {winners.count(0.5)} ties"
        ),
    }
    leads = [[_lead(of[order]) for order in _ORDERS["both"]] for of in reviews.values() if len(of) == 2]
    gaps = [None if first is None or second is None else first - second for first, second in leads]
    if gaps:
        gap = statistics.estimate_mean(gaps, max_failed_share=max_failed_share)
        found["review_position_gap"] = gap.with_note(position_note(gap))
    return found


def _answer(fields: Mapping[str, Any]) -> tuple[str, tuple[str | None, ...]]:
    if "choices" not in fields and "text" in fields:
        return _id(fields), (rows.answer_of(fields["text"], "text"),)
    choices = fields.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadRecordError(f"choices must be a list of objects, got {choices!r}")
    return _id(fields), tuple(rows.answer_of(turn, "an answer in turns") for turn in _turns(choices[0]))


def _id(fields: Mapping[str, Any]) -> str:
    found = fields.get("question_id")
    if isinstance(found, bool) or not isinstance(found, int | str):
        raise BadRecordError(f"question_id must be a number or a text, got {found!r}")
    return encodable(str(found))


def _turns(fields: Mapping[str, Any], each: type = object) -> list[Any]:
    """The list of turns in a question or an answer, ``each`` of this type."""
    turns = fields.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, each) for turn in turns):
        raise BadRecordError(f"turns must be a list of texts, got {turns!r}")
    return turns


def _ratings(
    exchanges: Sequence[benchmark.Exchange], judged: Mapping[Place, Judgment]
) -> dict[tuple[str, int], float | None]:
    """Question and turn → the rating."""
    turns = [(each.question_id, turn) for each in exchanges for turn in range(1, len(each.turns) + 1)]
    return {turn: judged.get((*turn, _SINGLE, _SINGLE), Judgment()).value for turn in turns}


def _mean_scores(reviews: Sequence[Review]) -> Review:
    """Model and baseline, over the orders of one question; None when one of them failed."""
    model, baseline = (statistics.mean_value([scores and scores[side] for scores in reviews]) for side in (0, 1))
    return None if model is None or baseline is None else (round(model, _DIGITS), round(baseline, _DIGITS))


def _lead(scores: Review) -> float | None:
    return None if scores is None else scores[0] - scores[1]
