"""The figures of the judged held-out set: quality retention, win rate, score ratio, lengths. Pure.

Means are over the instructions that are scored (`tapir_core.judging.retention`); others are counted, and in no figure.
Lengths are in characters, of the same instructions.
"""

from functools import partial

import polars as pl

from tapir_core.config import RETENTION, RunConfig
from tapir_core.evaluation.scores import figures_of_splits
from tapir_core.evaluation.statistics import SHARE, Figure, mean_figure, ratio_figure
from tapir_core.judging.retention import LENGTHS, WIN_RATE

BENCHMARK = "judged_heldout"
"""What the figures stand under in ``scores/``."""

SCORE_RATIO = "score_ratio"

_UNIT = "instructions"


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
    return figures_of_splits(
        compared, partial(_figures, limit=max_failed_share), BENCHMARK, judge, prompt_version, settings
    )


def _figures(rows: pl.DataFrame, _category: str, limit: float) -> dict[str, Figure]:
    scores = rows.select("student_score", "teacher_score").rows()
    pairs = [None if student is None else (student, teacher) for student, teacher in scores]
    shares = {
        metric: mean_figure(rows[metric].to_list(), scale=SHARE, max_failed_share=limit, unit=_UNIT)
        for metric in (RETENTION, WIN_RATE)
    }
    ratio = {SCORE_RATIO: ratio_figure(pairs, max_failed_share=limit, unit=_UNIT)}
    lengths = {name: mean_figure(rows[name].to_list(), max_failed_share=limit, unit=_UNIT) for name in LENGTHS}
    return shares | ratio | lengths


def judges_in_words(config: RunConfig) -> str:
    """Who judges; a judge that is the teacher itself is said to be."""
    names = " and ".join(config.judge.all_names)
    return f"{names} (the teacher, which judges its own answers)" if config.judges_itself else names
