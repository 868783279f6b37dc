"""What MT-Bench and Vicuna-Instructions have of FastChat: files of questions and answers, temperatures, pairs.

A question is a line with ``question_id``, ``category`` and ``turns``; an answer one with ``question_id`` and
``choices``, of which the first one's ``turns`` count. Answers of a model may have the form of 2023, in which ``text``
is the answer to the one turn. A question's own ``reference`` field is not read, as in the original.

Two answers to one question are judged twice: each stands first once, and what the two games disagree on is a tie.
Grain: a ``Pair`` is one question and turn; a game is one call, in one order. Source: FastChat's pairwise grading
(`fastchat/llm_judge`); the verdict of a reply is found by containment as there, ``[[A]]`` before ``[[B]]``.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import polars as pl

from tapir_core.config import FastChatBenchmark, Sampling
from tapir_core.errors import ConfigError
from tapir_core.evaluation.benchmark import Judging
from tapir_core.evaluation.rows import BadRowError, answer_of, check_category, encodable, read_rows, text_of
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE, SHARE, Figure, mean_figure
from tapir_core.judging.agreement import favoured_position
from tapir_core.text import Unparsed

__all__ = [
    "NUMBER",
    "WINS",
    "FastChat",
    "Outcomes",
    "Pair",
    "PairFigures",
    "Question",
    "Shown",
    "Winner",
    "check_references",
    "combine_games",
    "measure_outcomes",
    "measure_pairs",
    "needs_reference",
    "parse_pair_verdict",
    "read_answers",
    "read_questions",
    "temperature_of",
    "winner_of_game",
]

Shown = Literal["A", "B", "tie"]
"""What a judge says of the answers it is shown: A stood first."""

Winner = Literal["model", "baseline", "tie"]

NUMBER = r"([0-9]{1,8}(?:\.[0-9]{0,8})?)"
"""A rating or a score as these judges write it: digits, perhaps a point, perhaps digits; no sign, no blank."""

_VERDICTS: tuple[tuple[str, Shown], ...] = (("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie"))
WINS: dict[Winner, float] = {"model": 1.0, "tie": 0.5, "baseline": 0.0}
"""What an outcome is worth to the model."""
_WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
_TEMPERATURES = {"extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1, "humanities": 0.1}
_TEMPERATURE = 0.7

F = TypeVar("F", bound=FastChatBenchmark)


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a benchmark."""

    question: str
    """Its id."""
    category: str
    turns: tuple[str, ...]
    """What the user says; the second turn follows the student's own answer to the first."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The model's and the baseline's answer to one question, in both orders."""

    question: str
    category: str
    turn: int
    model_first: Winner | None
    """Who won the game in which the model's answer stood first; None when it failed."""
    baseline_first: Winner | None

    @property
    def winner(self) -> Winner | None:
        """Of both games; None when one failed."""
        return combine_games(self.model_first, self.baseline_first)

    @property
    def order_gap(self) -> float | None:
        """The model's outcome (win 1, tie 0.5, loss 0) where it stood first minus the one where it stood second."""
        if self.model_first is None or self.baseline_first is None:
            return None
        return WINS[self.model_first] - WINS[self.baseline_first]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How often the model wins against the baseline; rates are shares (0-1)."""

    wins: int
    losses: int
    ties: int
    win_rate: Figure
    loss_rate: Figure
    win_rate_adjusted: Figure
    """Wins and half of the ties."""

    @property
    def in_words(self) -> str:
        """The counts."""
        return f"{self.wins} wins, {self.losses} losses, {self.ties} ties"


@dataclass(frozen=True, slots=True)
class PairFigures:
    """What both orders come to, and whether the judge favours one of them."""

    outcomes: Outcomes
    order_gap: Figure
    """By how much standing first raises the outcome of a game, -1 to 1."""

    @property
    def favoured(self) -> Literal["first", "second", "neither"] | None:
        """The position that the judge favours; None where too few pairs can tell."""
        return favoured_position(self.order_gap.estimate)


class FastChat(Judging[F]):
    """A benchmark with questions and answers in FastChat's form."""

    model_field = "model_id"
    outputs_form = "question_id and choices with turns in each row (FastChat's model_answer)"

    def answering(self, category: str, _student: Sampling) -> Sampling:
        """Temperature by category."""
        return Sampling(temperature=temperature_of(category), max_tokens=self.settings.max_tokens)

    def read_outputs(self, path: str, _items: pl.DataFrame) -> dict[tuple[str, int], str | None]:
        """Found by the question's id."""
        answers = read_answers(path)
        return {(each, turn): text for each, turns in answers.items() for turn, text in enumerate(turns, start=1)}

    def read_baseline(self, questions: Sequence[Question]) -> dict[str, tuple[str | None, ...]]:
        """Question id → the baseline's answer to each turn, of its file or of the student of another run.

        An answer that it lacks, or that failed, is nothing.

        Raises:
            ConfigError: the file cannot be read, the student has not answered, or none of ``questions`` is answered in
                all turns.
        """
        asked = {each.question: each.turns for each in questions}
        path = self.settings.baseline_file or ""
        answers = read_answers(path) if self.against is None else self.against.answers(asked)
        padded = {name: (*answers.get(name, ()), *[None] * len(turns))[: len(turns)] for name, turns in asked.items()}
        self.check_baseline([*padded], [name for name, given in padded.items() if None in given])
        return padded


def temperature_of(category: str) -> float:
    """The temperature at which a student answers, in MT-Bench and Vicuna-Instructions alike."""
    return _TEMPERATURES.get(category, _TEMPERATURE)


def needs_reference(category: str) -> bool:
    """Whether the judge is shown a reference answer."""
    return category in _WITH_REFERENCE


def read_questions(path: str) -> list[Question]:
    """The questions of a file, in its order.

    Raises:
        ConfigError: the file cannot be read, has a row that is no question, or an id twice.
    """
    questions = read_rows(path, _question, "question")
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


def check_references(questions: Sequence[Question], references: Mapping[str, Sequence[str | None]]) -> None:
    """Every question whose category needs a reference has one for each turn; an empty text is none.

    Raises:
        ConfigError: some have none; all are named.
    """
    lacking = [
        each.question
        for each in questions
        if needs_reference(each.category)
        and sum(bool(text and text.strip()) for text in references.get(each.question, ())[: len(each.turns)])
        < len(each.turns)
    ]
    if lacking:
        raise ConfigError(
            f"no reference answer to question {', '.join(lacking)}; questions on mathematics, reasoning and coding "
            "are judged against one"
        )


def parse_pair_verdict(reply: str | None) -> Shown | Unparsed:
    """The verdict that a reply contains: A before B before C (tie), wherever they stand."""
    return next((shown for mark, shown in _VERDICTS if mark in (reply or "")), Unparsed("no verdict"))


def winner_of_game(shown: Shown, *, model_first: bool) -> Winner:
    """Whose answer a verdict on the shown answers favours."""
    if shown == "tie":
        return "tie"
    return "model" if (shown == "A") == model_first else "baseline"


def combine_games(model_first: Winner | None, baseline_first: Winner | None) -> Winner | None:
    """The winner of both games; whatever they disagree on is a tie. None when one of them failed."""
    if model_first is None or baseline_first is None:
        return None
    return model_first if model_first == baseline_first else "tie"


def measure_pairs(pairs: Sequence[Pair], *, max_failed_share: float = MAX_FAILED_SHARE) -> PairFigures:
    """The model against the baseline over all turns; intervals take questions as independent, not turns."""
    questions = [pair.question for pair in pairs]
    gaps = [pair.order_gap for pair in pairs]
    return PairFigures(
        measure_outcomes([pair.winner for pair in pairs], questions, max_failed_share=max_failed_share),
        mean_figure(gaps, clusters=questions, scale=(-1.0, 1.0), max_failed_share=max_failed_share),
    )


def measure_outcomes(
    winners: Sequence[Winner | None], questions: Sequence[Hashable], *, max_failed_share: float = MAX_FAILED_SHARE
) -> Outcomes:
    """Counts and rates; ``questions`` says which question each winner belongs to."""

    def rate(values: dict[Winner, float]) -> Figure:
        marks = [None if winner is None else values[winner] for winner in winners]
        return mean_figure(marks, clusters=questions, scale=SHARE, max_failed_share=max_failed_share)

    return Outcomes(
        wins=winners.count("model"),
        losses=winners.count("baseline"),
        ties=winners.count("tie"),
        win_rate=rate({"model": 1.0, "tie": 0.0, "baseline": 0.0}),
        loss_rate=rate({"model": 0.0, "tie": 0.0, "baseline": 1.0}),
        win_rate_adjusted=rate(WINS),
    )


def _question(fields: Mapping[str, Any]) -> Question:
    return Question(_id(fields), check_category(text_of(fields, "category")), _turns(fields))


def _answer(fields: Mapping[str, Any]) -> tuple[str, tuple[str | None, ...]]:
    if "choices" not in fields and "text" in fields:
        return _id(fields), (answer_of(fields["text"], "text"),)
    choices = fields.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadRowError(f"choices must be a list of objects, got {choices!r}")
    turns = choices[0].get("turns")
    if not isinstance(turns, list) or not turns:
        raise BadRowError(f"turns must be a list of texts, got {turns!r}")
    return _id(fields), tuple(answer_of(turn, "an answer in turns") for turn in turns)


def _id(fields: Mapping[str, Any]) -> str:
    found = fields.get("question_id")
    if isinstance(found, bool) or not isinstance(found, int | str):
        raise BadRowError(f"question_id must be a number or a text, got {found!r}")
    return encodable(str(found))


def _turns(fields: Mapping[str, Any]) -> tuple[str, ...]:
    turns = fields.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise BadRowError(f"turns must be a list of texts, got {turns!r}")
    return tuple(map(encodable, turns))
