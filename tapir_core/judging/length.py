"""Whether a judge's scores go with the length of the answers. Pure.

Limits: a correlation is no proof of a bias, since a longer answer can be the better one. The correlation of the
differences is the one to look at: it compares two answers to the same instruction. Length is counted in characters.
"""

from dataclasses import dataclass

import polars as pl

from tapir_core.judging.estimates import Estimate, estimate_spearman

__all__ = ["LengthEffects", "measure_length", "with_lengths"]


@dataclass(frozen=True, slots=True)
class LengthEffects:
    """Spearman's correlations over the scored instructions."""

    student: Estimate
    """The student's score with the length of its answer."""
    teacher: Estimate
    """The teacher's score with the length of its answer."""
    difference: Estimate
    """MFD with how much longer the teacher's answer is."""


def with_lengths(scores: pl.DataFrame, student: pl.DataFrame, teacher: pl.DataFrame) -> pl.DataFrame:
    """Adds student_chars and teacher_chars to what `mean_scores` gives; instructions without an answer leave.

    ``student`` and ``teacher`` have instruction_id and response, one row an instruction.
    """
    for who, answers in (("student", student), ("teacher", teacher)):
        given = answers.filter(pl.col("response").is_not_null())
        lengths = given.select(
            "instruction_id", pl.col("response").str.len_chars().cast(pl.Int64).alias(f"{who}_chars")
        )
        scores = scores.join(lengths, on="instruction_id", validate="1:1", maintain_order="left")
    return scores


def measure_length(rows: pl.DataFrame) -> LengthEffects:
    """Correlations of score and length; ``rows`` is what `with_lengths` gives."""
    chars = {who: rows[f"{who}_chars"].to_list() for who in ("student", "teacher")}
    longer = [teacher - student for student, teacher in zip(chars["student"], chars["teacher"], strict=True)]
    return LengthEffects(
        estimate_spearman(rows["student_score"].to_list(), chars["student"]),
        estimate_spearman(rows["teacher_score"].to_list(), chars["teacher"]),
        estimate_spearman(rows["mfd"].to_list(), longer),
    )
