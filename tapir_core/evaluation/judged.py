"""The judged held-out set: from verdicts on student and teacher to quality retention, win rate and score ratio. Pure.

An instruction counts where every order of it is scored, by all judges combined; another one is counted and in no
figure. In each order the student matches or beats the teacher, or does not: an instruction about which the two orders
disagree counts half, so that a judge that always prefers the answer it sees first yields 50 % and not 100 %. Means are
over instructions. Lengths are in characters, of the same instructions.
"""

from collections.abc import Sequence

import polars as pl

from tapir_core.config import RunConfig
from tapir_core.evaluation.scores import ACCURACY, SCORES, Score, score, withhold_categories
from tapir_core.evaluation.statistics import ALL, SHARE, mean_figure, ratio_figure
from tapir_core.judging.estimates import NO_TASK_TYPE

BENCHMARK = "judged_heldout"
"""What the figures stand under in ``scores/``."""

RETENTION, WIN_RATE, SCORE_RATIO = "quality_retention", "win_rate", "score_ratio"
LENGTHS = ("student_chars", "teacher_chars")

_DIGITS = 9
_UNIT = "instructions"


def compare_answers(
    questions: pl.DataFrame, answers: pl.DataFrame, verdicts: pl.DataFrame, orders: Sequence[str]
) -> pl.DataFrame:
    """One row an instruction of the set, in the order of ``questions``.

    Args:
        questions: instruction_id, task_type, split, response (the teacher's).
        answers: instruction_id, response (the student's).
        verdicts: of all judges combined, ``VERDICTS``.
        orders: in which an instruction must be scored.

    Returns:
        instruction_id, split, task_type, quality_retention and win_rate (0-1), student_score and teacher_score (points
        of the judge's scale), student_chars and teacher_chars; all but the first three null where it is unscored.
    """
    gap = (pl.col("student_score") - pl.col("teacher_score")).round(_DIGITS)
    scored = (
        verdicts.filter(pl.col("order").is_in(list(orders)), status="scored")
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


def score_judged(
    compared: pl.DataFrame, *, judge: str, prompt_version: str, settings: str, max_failed_share: float
) -> pl.DataFrame:
    """The figures with 95 % intervals, as ``SCORES``: one row a split, category (`all`, or a task type) and metric.

    Args:
        compared: what `compare_answers` gives.
        judge: who judged.
        prompt_version: of the judge's prompt.
        settings: how the answers were drawn and shown, in words.
        max_failed_share: share of unscored instructions of a split above which it has no figure.
    """
    compared = compared.with_columns(pl.col("task_type").fill_null(NO_TASK_TYPE))
    rows = [
        each.row(BENCHMARK, str(split), judge, prompt_version, settings)
        for (split,), of_split in sorted(compared.group_by("split"))
        for each in withhold_categories(_of_split(of_split, max_failed_share))
    ]
    return pl.DataFrame(rows, schema=SCORES, orient="row")


def _of_split(rows: pl.DataFrame, limit: float) -> list[Score]:
    categories = {ALL: rows} | {str(task_type): of for (task_type,), of in sorted(rows.group_by("task_type"))}
    return [each for name, of in categories.items() for each in _figures(of, name, limit)]


def _figures(rows: pl.DataFrame, category: str, limit: float) -> list[Score]:
    scores = rows.select("student_score", "teacher_score").rows()
    pairs = [None if student is None else (student, teacher) for student, teacher in scores]
    shares = {
        metric: mean_figure(rows[metric].to_list(), scale=SHARE, max_failed_share=limit, unit=_UNIT)
        for metric in (RETENTION, WIN_RATE)
    }
    ratio = {SCORE_RATIO: ratio_figure(pairs, max_failed_share=limit, unit=_UNIT)}
    lengths = {name: mean_figure(rows[name].to_list(), max_failed_share=limit, unit=_UNIT) for name in LENGTHS}
    return [score(metric, found, category) for metric, found in (shares | ratio | lengths).items()]


def headline(config: RunConfig) -> str:
    """The metric of the held-out set that a run goes by: quality retention where there is a judged set."""
    return RETENTION if config.data.judged else ACCURACY


def judges_in_words(config: RunConfig) -> str:
    """Who judges; a judge that is the teacher itself is said to be."""
    judge = config.judge
    names, taught_by = " and ".join(judge.names), config.teacher.endpoint.answers_as("teacher")
    return f"{names} (the teacher, which judges its own answers)" if taught_by in judge.identities else names
