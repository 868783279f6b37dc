"""What verdicts say of a student beside its teacher, instruction by instruction. Pure.

An instruction counts where every order of it is scored, by all judges combined. In each order the student matches or
beats the teacher, or does not: an instruction about which the two orders disagree counts half, so that a judge that
always prefers the answer it sees first yields 50 % and not 100 %.
"""

import polars as pl

from tapir_core.config import RETENTION, JudgeConfig
from tapir_core.judging.orders import combine_judges, expected_orders

WIN_RATE = "win_rate"
LENGTHS = ("student_chars", "teacher_chars")

_DIGITS = 9


def compare_answers(
    judge: JudgeConfig, questions: pl.DataFrame, answers: pl.DataFrame, verdicts: pl.DataFrame
) -> pl.DataFrame:
    """One row an instruction of the set, in the order of ``questions``.

    Args:
        judge: how verdicts are combined, and in which orders an instruction must be scored.
        questions: instruction_id, task_type, split, response (the teacher's).
        answers: instruction_id, response (the student's).
        verdicts: of each judge, ``VERDICTS``.

    Returns:
        instruction_id, split, task_type, quality_retention and win_rate (0-1), student_score and teacher_score (points
        of the judge's scale), student_chars and teacher_chars; all but the first three null where it is unscored.
    """
    gap = (pl.col("student_score") - pl.col("teacher_score")).round(_DIGITS)
    orders = expected_orders(judge)
    scored = (
        combine_judges(verdicts, judge.panel_rule)
        .filter(pl.col("order").is_in(orders), status="scored")
        .group_by("instruction_id")
        .agg(
            pl.col("order").n_unique().alias("orders"),
            (gap >= 0).mean().alias(RETENTION),
            (gap.sign() / 2 + 0.5).mean().alias(WIN_RATE),
            pl.col("student_score", "teacher_score").mean().round(_DIGITS),
        )
        .filter(pl.col("orders") == len(set(orders)))
        .drop("orders")
    )
    lengths = answers.select("instruction_id", student_chars=pl.col("response").str.len_chars())
    rows = questions.select("instruction_id", "split", "task_type", teacher_chars=pl.col("response").str.len_chars())
    found = rows.join(scored.join(lengths, on="instruction_id"), on="instruction_id", how="left", maintain_order="left")
    counted = pl.when(pl.col(RETENTION).is_not_null())
    return found.with_columns(counted.then(pl.col(LENGTHS).cast(pl.Float64)))
