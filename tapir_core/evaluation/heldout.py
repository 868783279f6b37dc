"""Which held-out instructions a student got right: what scores, gains and comparisons of arms are made of. Pure."""

import polars as pl

from tapir_core.evaluation.verifiable import is_correct

__all__ = ["grade_answers"]


def grade_answers(questions: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """One row a held-out instruction with an answer, also one that failed for good, which is wrong.

    Args:
        questions: instruction_id, task_type, reference, split.
        answers: instruction_id, response.

    Returns:
        instruction_id, split, task_type, correct; in the order of ``questions``.
    """
    rows = questions.join(answers.select("instruction_id", "response"), on="instruction_id", maintain_order="left")
    pairs = rows.select("response", "reference").iter_rows()
    correct = [response is not None and is_correct(response, reference) for response, reference in pairs]
    return rows.select("instruction_id", "split", "task_type", correct=pl.Series(correct, dtype=pl.Boolean))
