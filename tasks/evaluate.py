"""Stage `evaluate`: held-out scores of one student, with standard errors, by split and task type."""

import math

import polars as pl

from tapir_core.evaluation.verifiable import is_correct
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks._task import Worked, stage_task

__all__ = ["evaluate"]

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
    """Share of held-out instructions with the right final result; an answer that failed for good counts as wrong."""
    questions = run.rows(StageAt("heldout"))
    answers = run.rows(StageAt("answer_heldout", at.number))
    rows = questions.join(answers, on="instruction_id").select("split", "task_type", "reference", "response")
    graded = rows.with_columns(
        correct=pl.Series(
            [bool(response) and is_correct(response, reference) for _, _, reference, response in rows.iter_rows()],
            dtype=pl.Boolean,
        )
    )
    scores = []
    for (split,), of_split in sorted(graded.group_by("split")):
        scores.append(_score(split, "all", of_split))
        scores += [_score(split, task_type, rows) for (task_type,), rows in sorted(of_split.group_by("task_type"))]
    missing = questions.height - answers.height
    return Worked(pl.DataFrame(scores, schema=_SCHEMA, orient="row"), {"missing": missing})


def _score(split: object, category: object, rows: pl.DataFrame) -> tuple[object, ...]:
    """Accuracy with the standard error of a share."""
    n, right = rows.height, int(rows["correct"].sum())
    value = right / n
    return ("heldout", split, category, "accuracy", value, math.sqrt(value * (1 - value) / n), n)
