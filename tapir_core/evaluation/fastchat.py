"""What MT-Bench and Vicuna-Instructions have of FastChat: files of questions and answers, temperatures, pairs.

A question is a line with ``question_id``, ``category`` and ``turns``; an answer one with ``question_id`` and
``choices``, of which the first one's ``turns`` count. Answers of a model may have the form of 2023, in which ``text``
is the answer to the one turn. A question's own ``reference`` field is not read, as in the original.

Two answers to one question are judged twice: each stands first once, and what the two games disagree on is a tie.
Grain: a pair is one question and turn; a game is one call, in one order, and worth 1 to the model where it won, 0.5 for
a tie, 0 where the baseline won. Source: FastChat's pairwise grading (`fastchat/llm_judge`); the verdict of a reply is
found by containment as there, ``[[A]]`` before ``[[B]]``.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import polars as pl

from tapir_core.config import FastChatBenchmark, Sampling
from tapir_core.errors import ConfigError
from tapir_core.evaluation.benchmark import Judging
from tapir_core.evaluation.rows import BadRowError, answer_of, check_category, encodable, read_rows, text_of
from tapir_core.evaluation.scores import position_note
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE, SHARE, Figure, in_percent, mean_figure
from tapir_core.text import Unparsed

Shown = Literal["A", "B", "tie"]
"""What a judge says of the answers it is shown: A stood first."""

NUMBER = r"([0-9]{1,8}(?:\.[0-9]{0,8})?)"
"""A rating or a score as these judges write it: digits, perhaps a point, perhaps digits; no sign, no blank."""

_VERDICTS: tuple[tuple[str, Shown], ...] = (("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie"))
_WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
_TEMPERATURES = {"extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1, "humanities": 0.1}
_TEMPERATURE = 0.7

_F = TypeVar("_F", bound=FastChatBenchmark)


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
    questions = read_rows(
        path, lambda row: Question(_id(row), check_category(text_of(row, "category")), _turns(row)), "question"
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


def win_of_game(shown: Shown, *, model_first: bool) -> float:
    """What a verdict on the shown answers is worth to the model."""
    return 0.5 if shown == "tie" else float((shown == "A") == model_first)


def combine_games(model_first: float | None, baseline_first: float | None) -> float | None:
    """What both games are worth; whatever they disagree on is a tie. None when one of them failed."""
    if model_first is None or baseline_first is None:
        return None
    return model_first if model_first == baseline_first else 0.5


def measure_pairs(
    pairs: Mapping[tuple[str, int], tuple[float | None, float | None]], *, max_failed_share: float = MAX_FAILED_SHARE
) -> dict[str, Figure]:
    """The model against the baseline over all turns; intervals take questions as independent, not turns.

    Args:
        pairs: question and turn → what the game was worth in which the model's answer stood first, and the other one;
            None where it failed.
        max_failed_share: above this share of failed ones (0-1) there is no figure.
    """
    questions = [question for question, _ in pairs]
    found = measure_outcomes([combine_games(*games) for games in pairs.values()], questions, max_failed_share)
    gaps = [None if first is None or second is None else first - second for first, second in pairs.values()]
    gap = mean_figure(gaps, clusters=questions, scale=(-1.0, 1.0), max_failed_share=max_failed_share)
    figures = {f"pair_{name}": figure for name, figure in found.items()}
    return {**figures, "pair_position_gap": replace(in_percent(gap), note=position_note(gap.estimate))}


def measure_outcomes(
    outcomes: Sequence[float | None], questions: Sequence[Hashable], max_failed_share: float
) -> dict[str, Figure]:
    """How often the model wins against the baseline, in per cent: wins and half of the ties, wins, losses.

    ``questions`` says which question each outcome belongs to. The first figure says the counts.
    """
    wins, losses = ([None if each is None else float(each == end) for each in outcomes] for end in (1.0, 0.0))
    rates = {"win_rate_adjusted": outcomes, "win_rate": wins, "loss_rate": losses}
    found = {
        name: in_percent(mean_figure(of, clusters=questions, scale=SHARE, max_failed_share=max_failed_share))
        for name, of in rates.items()
    }
    counts = f"{outcomes.count(1.0)} wins, {outcomes.count(0.0)} losses, {outcomes.count(0.5)} ties"
    return {**found, "win_rate_adjusted": replace(found["win_rate_adjusted"], note=counts)}


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
