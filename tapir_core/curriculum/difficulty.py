"""Model Fitting Difficulty: how far the student's answer falls behind the teacher's, by the judge's scores.

MFD = mean over orders of teacher − student (method.md: the paper's summaries print the opposite sign, but keep what
is *above* δ as hard). An instruction counts as scored only when every configured order is, and when it has a task type.
"""

from collections import Counter
from collections.abc import Sequence

import polars as pl

from tapir_core.curriculum.tables import DIFFICULTY, in_order

__all__ = ["compute_difficulty", "count_unscored"]

_DIGITS = 9
"""Scores with decimals must not become harder than δ by a rounding error in the 16th digit."""


def compute_difficulty(verdicts: pl.DataFrame, labels: pl.DataFrame, orders: Sequence[str]) -> pl.DataFrame:
    """The table ``difficulty/``: one row an instruction that is scored in every one of ``orders``."""
    gap = (pl.col("teacher_score") - pl.col("student_score")).alias("mfd")
    scored = (
        _scored(verdicts, orders)
        .with_columns(gap)
        .group_by("instruction_id")
        .agg(
            pl.col("order").n_unique().alias("orders"),
            pl.col("student_score", "teacher_score", "mfd").mean().round(_DIGITS),
            _of_order("teacher_first").alias("teacher_first"),
            _of_order("student_first").alias("student_first"),
        )
        .filter(pl.col("orders") == len(set(orders)))
        .with_columns((pl.col("teacher_first") - pl.col("student_first")).round(_DIGITS).alias("order_gap"))
    )
    rows = scored.join(labels.drop_nulls("task_type"), on="instruction_id", how="inner", validate="1:1")
    return in_order(rows).select(DIFFICULTY.names()).cast(DIFFICULTY)


def count_unscored(verdicts: pl.DataFrame, labels: pl.DataFrame, orders: Sequence[str]) -> dict[str, int]:
    """Why instructions with a verdict are in neither seeds nor easy: reason → instructions.

    An instruction with several reasons counts under the first of its verdicts in the order of ``orders``.
    """
    scored = set(compute_difficulty(verdicts, labels, orders)["instruction_id"])
    place = {order: number for number, order in enumerate(orders)}
    reasons: dict[str, str] = {}
    asked = verdicts.filter(pl.col("order").is_in(list(orders)))
    rows = asked.select("instruction_id", "order", "status", "reason").rows()
    for identity, _, status, reason in sorted(rows, key=lambda row: (row[0], place[row[1]])):
        if identity not in scored and status != "scored":
            reasons.setdefault(identity, reason or "no reason given")
    labelled = set(labels.drop_nulls("task_type")["instruction_id"])
    for identity in set(asked["instruction_id"]) - scored:
        reasons.setdefault(identity, "an order is missing" if identity in labelled else "no task type")
    return dict(sorted(Counter(reasons.values()).items()))


def _scored(verdicts: pl.DataFrame, orders: Sequence[str]) -> pl.DataFrame:
    return verdicts.filter(
        (pl.col("status") == "scored")
        & pl.col("order").is_in(list(orders))
        & pl.col("student_score").is_not_null()
        & pl.col("teacher_score").is_not_null()
    )


def _of_order(order: str) -> pl.Expr:
    return pl.col("mfd").filter(pl.col("order") == order).mean()
