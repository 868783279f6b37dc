"""MT-Bench: two turns a question, ratings of a student's answers; FastChat's files.

`FastChat` is what Vicuna-Instructions shares with it. A question is a line with ``question_id``, ``category`` and
``turns``; an answer one with ``question_id`` and ``choices``, of which the first one's ``turns`` count. Answers of a
model may have the form of 2023, in which ``text`` is the answer to the one turn. A question's own ``reference`` field
is not read, as in the original.

Grain: a rating is one judge reply on one turn of one question. Source: FastChat (`fastchat/llm_judge`, single grading).
Its rule for a rating is kept, the absent check of the scale too: ``[[11]]`` is 11. Departures: a failed rating is None
and not -1; ``[[08]]``, on which the original fails, is 8. The prompt is our own and one user message, so that figures
are near published ones and not equal to them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import polars as pl

from tapir_core.config import Sampling
from tapir_core.config.benchmarks import FastChatBenchmark, MTBenchBenchmark
from tapir_core.data.records import BadRecordError
from tapir_core.errors import ConfigError
from tapir_core.evaluation import scores
from tapir_core.evaluation.benchmark import Exchange, Game, Judging, items_table, register
from tapir_core.evaluation.rows import answer_of, check_category, read_rows, text_of
from tapir_core.judging.prompt import neutralise
from tapir_core.prompts import Prompt
from tapir_core.statistics import MAX_FAILED_SHARE, Estimate, estimate_mean
from tapir_core.text import Unparsed, encodable

NUMBER = r"([0-9]{1,8}(?:\.[0-9]{0,8})?)"
"""A rating or a score as these judges write it: digits, perhaps a point, perhaps digits; no sign, no blank."""

WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
"""Categories in which the judge is shown a reference answer."""
_TEMPERATURES = {"extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1, "humanities": 0.1}
"""At which a student answers, in MT-Bench and Vicuna-Instructions alike; in any other category at the next one."""
_TEMPERATURE = 0.7
_F = TypeVar("_F", bound=FastChatBenchmark)
_MODE: Literal["single"] = "single"
"""Of every judgment, and its order: one answer is shown."""
_PROMPT = "mt_bench_single"
_TAGS = ("question", "follow_up", "follow_up_answer", "follow_up_reference")

_SCALE = (1.0, 10.0)
"""What the judge is asked for; not checked."""

_RATINGS = (re.compile(rf"\[\[{NUMBER}\]\]"), re.compile(rf"\[{NUMBER}\]"))


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a benchmark."""

    question: str
    """Its id."""
    category: str
    turns: tuple[str, ...]
    """What the user says; the second turn follows the student's own answer to the first."""


class FastChat(Judging[_F]):
    """A benchmark with questions and answers in FastChat's form."""

    model_field = "model_id"
    outputs_form = "question_id and choices with turns in each row (FastChat's model_answer)"

    def answering(self, category: str, _student: Sampling) -> Sampling:
        """Temperature by category."""
        return Sampling(temperature=_TEMPERATURES.get(category, _TEMPERATURE), max_tokens=self.settings.max_tokens)

    def read_outputs(self, path: str, _items: pl.DataFrame) -> dict[tuple[str, int], str | None]:
        """Found by the question's id."""
        answers = read_answers(path)
        return {(each, turn): text for each, turns in answers.items() for turn, text in enumerate(turns, start=1)}


@register(MTBenchBenchmark)
class MTBench(FastChat[MTBenchBenchmark]):
    """The benchmark with its settings."""

    labels: ClassVar[Mapping[str, str]] = {
        "rating": "rating, 1–10",
        "rating_turn_1": "rating of turn 1, 1–10",
        "rating_turn_2": "rating of turn 2, 1–10",
    }

    def items(self) -> pl.DataFrame:
        """All turns, with references in the categories that have them."""
        where, settings = self.where, self.settings
        questions = read_questions(settings.questions)
        if long := [each.question for each in questions if len(each.turns) > 2]:
            raise ConfigError(f"{where}.questions: question {', '.join(long)} has more than two turns")
        references = {} if settings.references is None else read_answers(settings.references)
        check_references(questions, references, f"{where}.references")
        return items_table(
            (
                *(each.question, each.category, turn + 1, text),
                references[each.question][turn] if each.category in WITH_REFERENCE else None,
                None,
            )
            for each in questions
            for turn, text in enumerate(each.turns)
        )

    def games(self, exchange: Exchange, prompts: Mapping[str, Prompt]) -> list[Game]:
        """A rating of each turn."""
        return [self._game(exchange, turn, prompts[_PROMPT]) for turn in range(1, len(exchange.turns) + 1)]

    def read(self, _game: Game, text: str, _logprobs: Mapping[str, float]) -> scores.Judgment | Unparsed:
        """The rating."""
        rating = parse_rating(text)
        return rating if isinstance(rating, Unparsed) else scores.Judgment(rating)

    def figures(
        self, exchanges: Sequence[Exchange], judged: Mapping[scores.Place, scores.Judgment], *, whole: bool
    ) -> dict[str, Estimate]:
        """Mean ratings."""
        return measure_ratings(_ratings(exchanges, judged), max_failed_share=self.settings.max_failed_share)

    def values(
        self, exchanges: Sequence[Exchange], judged: Mapping[scores.Place, scores.Judgment]
    ) -> dict[str, scores.ItemValues]:
        """The mean rating of both turns together."""
        return {"rating": scores.by_question(_ratings(exchanges, judged))}

    def _game(self, exchange: Exchange, turn: int, prompt: Prompt) -> Game:
        shown = exchange.turns[:turn]
        if any(each.response is None for each in shown):
            return exchange.game(turn, _MODE, _MODE, None, reason=scores.NO_ANSWER)
        sections: dict[str, str | None] = {}
        for each, (question, prefix) in zip(shown, (("question", ""), ("follow_up", "follow_up_")), strict=False):
            sections |= {question: each.question, f"{prefix}reference": each.reference}
            sections[f"{prefix}answer"] = each.response
        safe = {tag: neutralise(sections.get(tag) or "", _TAGS) for tag in {*_TAGS, *sections}}
        return exchange.game(turn, _MODE, _MODE, prompt.render(**safe), prompt=_PROMPT)


def read_questions(path: str) -> list[Question]:
    """The questions of a file, in its order.

    Raises:
        ConfigError: the file cannot be read, has a row that is no question, or an id twice.
    """
    questions = read_rows(
        path, lambda row: Question(_id(row), check_category(text_of(row, "category")), _user_turns(row)), "question"
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
    return dict(read_rows(path, _answer, "answer"))


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
    ratings: Mapping[tuple[str, int], float | None], *, max_failed_share: float = MAX_FAILED_SHARE
) -> dict[str, Estimate]:
    """Mean ratings, 1-10: of all together (not of the two means: the MT-Bench score), of turn 1, of turn 2.

    Args:
        ratings: question and turn → rating; None where it failed. Intervals take questions as independent, not turns.
        max_failed_share: above this share of failed ones (0-1) there is no figure.
    """
    found = {}
    for metric, turns in (("rating", (1, 2)), ("rating_turn_1", (1,)), ("rating_turn_2", (2,))):
        of = {question: rating for question, rating in ratings.items() if question[1] in turns}
        clusters = [question for question, _ in of]
        found[metric] = estimate_mean(
            [*of.values()], clusters=clusters, scale=_SCALE, max_failed_share=max_failed_share
        )
    return found


def _answer(fields: Mapping[str, Any]) -> tuple[str, tuple[str | None, ...]]:
    if "choices" not in fields and "text" in fields:
        return _id(fields), (answer_of(fields["text"], "text"),)
    choices = fields.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadRecordError(f"choices must be a list of objects, got {choices!r}")
    turns = choices[0].get("turns")
    if not isinstance(turns, list) or not turns:
        raise BadRecordError(f"turns must be a list of texts, got {turns!r}")
    return _id(fields), tuple(answer_of(turn, "an answer in turns") for turn in turns)


def _id(fields: Mapping[str, Any]) -> str:
    found = fields.get("question_id")
    if isinstance(found, bool) or not isinstance(found, int | str):
        raise BadRecordError(f"question_id must be a number or a text, got {found!r}")
    return encodable(str(found))


def _user_turns(fields: Mapping[str, Any]) -> tuple[str, ...]:
    turns = fields.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise BadRecordError(f"turns must be a list of texts, got {turns!r}")
    return tuple(map(encodable, turns))


def _ratings(
    exchanges: Sequence[Exchange], judged: Mapping[scores.Place, scores.Judgment]
) -> dict[tuple[str, int], float | None]:
    """Question and turn → the rating."""
    turns = [(each.question_id, turn) for each in exchanges for turn in range(1, len(each.turns) + 1)]
    return {turn: judged.get((*turn, _MODE, _MODE), scores.Judgment()).value for turn in turns}
