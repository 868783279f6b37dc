"""Stage `evaluate`: held-out scores of one student, with standard errors, by split and task type."""

import math

import polars as pl

from tapir_core.evaluation.heldout import grade_answers
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks._task import stage_task
from tasks.outcomes import Worked

__all__ = ["UNTYPED", "evaluate", "score_answers"]

UNTYPED = "no task type"
"""Category of held-out instructions that came without a task type."""

_SCHEMA = {
    "benchmark": pl.String,
    "split": pl.String,
    "category": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "stderr": pl.Float64,
    "n": pl.Int64,
}


@stage_task("evaluate")
def evaluate(run: RunFolder, at: StageAt) -> Worked:
    """Scores of the student after the round, from its stored answers."""
    questions, answers = run.rows(StageAt("heldout")), run.rows(StageAt("answer_heldout", at.round))
    return Worked(score_answers(questions, answers), {"missing": questions.height - answers.height})


def score_answers(questions: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """Share of held-out instructions with the right final result; an answer that failed for good counts as wrong.

    Grain: one row per split and category (`all`, or a task type); ``value`` and ``stderr`` are shares (0–1).
    """
    graded = grade_answers(questions, answers).with_columns(pl.col("task_type").fill_null(UNTYPED))
    scores = []
    for (split,), of_split in sorted(graded.group_by("split")):
        scores.append(_score(split, "all", of_split))
        scores += [_score(split, task_type, rows) for (task_type,), rows in sorted(of_split.group_by("task_type"))]
    return pl.DataFrame(scores, schema=_SCHEMA, orient="row")


def _score(split: object, category: object, rows: pl.DataFrame) -> tuple[object, ...]:
    """Accuracy with the standard error of a share."""
    n, right = rows.height, int(rows["correct"].sum())
    value = right / n
    return ("heldout", split, category, "accuracy", value, math.sqrt(value * (1 - value) / n), n)
