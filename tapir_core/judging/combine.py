"""Orders and verdicts: which answer is shown first, and whose score is whose.

Grain: a ``Verdict`` is one row of ``verdicts/``, one instruction in one order by one judge. "Could not judge" is a
value with a reason, never a score. In pointwise mode there is nothing to put in order: one row an instruction and
judge, ``order = "pointwise"``, made of the student's score of this round and the teacher's, which is paid once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import polars as pl

from tapir_core.config import Order
from tapir_core.judging.verdict import PairScores
from tapir_core.replies import Unparsed

__all__ = [
    "POINTWISE",
    "VERDICTS",
    "ShownAnswers",
    "Verdict",
    "arrange",
    "combine_points",
    "pair_verdict",
    "unscored",
    "verdict_rows",
]

POINTWISE = "pointwise"

VERDICTS = pl.Schema(
    {
        "instruction_id": pl.String(),
        "order": pl.String(),
        "student_score": pl.Float64(),
        "teacher_score": pl.Float64(),
        "status": pl.String(),
        "reason": pl.String(),
        "raw": pl.String(),
        "judge": pl.String(),
    }
)
"""Columns of ``verdicts/``: one row an instruction, order and judge."""


@dataclass(frozen=True, slots=True)
class ShownAnswers:
    """Two answers in the order in which a judge sees them."""

    answer_1: str
    answer_2: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judge reply, parsed: two scores, or unscored with a reason. Fields are the columns of ``verdicts/``."""

    instruction_id: str
    order: str
    student_score: float | None
    teacher_score: float | None
    status: Literal["scored", "unscored"]
    reason: str | None
    raw: str | None
    judge: str
    """Its name among the judges of the run."""


def arrange(order: Order, student: str, teacher: str) -> ShownAnswers:
    """The two answers as ``order`` shows them."""
    return ShownAnswers(teacher, student) if order == "teacher_first" else ShownAnswers(student, teacher)


def pair_verdict(
    instruction_id: str, order: Order, scores: PairScores | Unparsed, raw: str | None, judge: str
) -> Verdict:
    """The verdict on two answers that were shown in ``order``."""
    if isinstance(scores, Unparsed):
        return unscored(instruction_id, order, scores.reason, raw, judge)
    first, second = scores.answer_1, scores.answer_2
    student, teacher = (second, first) if order == "teacher_first" else (first, second)
    return Verdict(instruction_id, order, student, teacher, "scored", None, raw, judge)


def combine_points(
    instruction_id: str, student: float | Unparsed, teacher: float | Unparsed, raw: str | None, judge: str
) -> Verdict:
    """The verdict of pointwise mode; ``raw`` is the reply on the student's answer."""
    if isinstance(student, Unparsed):
        return unscored(instruction_id, POINTWISE, student.reason, raw, judge)
    if isinstance(teacher, Unparsed):
        return unscored(instruction_id, POINTWISE, f"teacher: {teacher.reason}", raw, judge)
    return Verdict(instruction_id, POINTWISE, student, teacher, "scored", None, raw, judge)


def unscored(instruction_id: str, order: str, reason: str, raw: str | None, judge: str) -> Verdict:
    """A verdict without scores: the judge refused, failed for good, or gave no verdict."""
    return Verdict(instruction_id, order, None, None, "unscored", reason, raw, judge)


def verdict_rows(verdicts: Iterable[Verdict]) -> pl.DataFrame:
    """Verdicts as the table ``verdicts/``, in the order given."""
    rows: Sequence[tuple[object, ...]] = [astuple(verdict) for verdict in verdicts]
    return pl.DataFrame(rows, schema=VERDICTS, orient="row")
