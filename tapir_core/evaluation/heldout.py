"""Which held-out instructions a student got right: what scores, gains and comparisons of arms are made of. Pure.

An instruction without an answer (one that failed for good, or that the run went on without) is neither right nor wrong:
it is counted, and no part of an accuracy.
"""

from collections.abc import Iterator

import polars as pl

from tapir_core.evaluation.scores import SCORES, Score, score, withhold_categories
from tapir_core.evaluation.statistics import share_figure
from tapir_core.verifiable import is_correct

__all__ = ["UNTYPED", "grade_answers", "score_answers"]

UNTYPED = "no task type"
"""Category of held-out instructions that came without a task type."""

_RULE = "exact match of the final result"
"""What stands in the place of a judge; the instruction is asked as it is, so the version of a prompt is empty."""


def grade_answers(questions: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """One row a held-out instruction, right, wrong or without an answer.

    Args:
        questions: instruction_id, task_type, reference, split.
        answers: instruction_id, response (null where it failed for good).

    Returns:
        instruction_id, split, task_type, correct (null without an answer); in the order of ``questions``.
    """
    given = answers.select("instruction_id", "response")
    rows = questions.join(given, on="instruction_id", how="left", maintain_order="left")
    pairs = rows.select("response", "reference").iter_rows()
    correct = [None if response is None else is_correct(response, reference) for response, reference in pairs]
    return rows.select("instruction_id", "split", "task_type", correct=pl.Series(correct, dtype=pl.Boolean))


def score_answers(questions: pl.DataFrame, answers: pl.DataFrame, settings: str) -> pl.DataFrame:
    """Share of the answers with the right final result, with Wilson's 95 % interval, as ``SCORES``.

    Grain: one row per split and category (`all`, or a task type); ``value``, ``stderr``, ``low`` and ``high`` are
    shares (0-1). Where too much of a split failed there is no figure, in no category either.

    Args:
        questions: as `grade_answers` takes them.
        answers: likewise.
        settings: how the answers were drawn, in words.
    """
    graded = grade_answers(questions, answers).with_columns(pl.col("task_type").fill_null(UNTYPED))
    beside = (_RULE, "", settings)
    rows = [
        each.row("heldout", str(split), *beside)
        for (split,), of_split in sorted(graded.group_by("split"))
        for each in withhold_categories(_scores(of_split))
    ]
    return pl.DataFrame(rows, schema=SCORES, orient="row")


def _scores(of_split: pl.DataFrame) -> Iterator[Score]:
    yield score("accuracy", share_figure(of_split["correct"].to_list()))
    for (task_type,), rows in sorted(of_split.group_by("task_type")):
        yield score("accuracy", share_figure(rows["correct"].to_list()), str(task_type))
