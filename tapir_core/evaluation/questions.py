"""Questions and reference answers of MT-Bench and Vicuna-Instructions, from files in FastChat's form.

A question is a line with ``question_id``, ``category`` and ``turns``; a reference answer one with ``question_id`` and
``choices``, of which the first one's ``turns`` count. Answers of a model have the form of references, or that of
2023, in which ``text`` is the answer to the one turn. A question's own ``reference`` field is not read, as in the
original.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tapir_core.errors import ConfigError
from tapir_core.evaluation.mt_bench import needs_reference
from tapir_core.evaluation.rows import BadRowError, answer_of, encodable, read_rows, text_of
from tapir_core.evaluation.statistics import ALL

__all__ = ["Question", "check_category", "check_references", "read_answers", "read_questions"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a benchmark."""

    question: str
    """Its id."""
    category: str
    turns: tuple[str, ...]
    """What the user says; the second turn follows the student's own answer to the first."""


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


def check_category(name: str) -> str:
    """The category.

    Raises:
        BadRowError: it has the name that the whole has among figures.
    """
    if name == ALL:
        raise BadRowError(f"the category {ALL!r} stands for all questions together; give it another name")
    return name


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
