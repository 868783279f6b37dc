from pathlib import Path

import polars as pl
import pytest

from tapir_core.reporting.judge_report import (
    agreement_sentence,
    in_words,
    length_sentence,
    position_sentence,
    summarise_judge,
    unscored_sentence,
)
from tapir_core.statistics import Estimate
from tapir_core.summary.formats import correlation, points
from tests.tapir_core.reporting.judged_rounds import EDGES, Change, judged_run


def biased_by(points_more: float, spread: float = 0.5) -> Change:
    """The first answer gains; every other instruction a little more."""

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        more = (
            pl.when(pl.col("instruction_id").rank("dense") % 2 == 0)
            .then(points_more + spread)
            .otherwise(points_more - spread)
        )
        student = pl.when(pl.col("order") == "student_first").then(5 + more).otherwise(5.0)
        return rows.with_columns(
            student_score=student,
            teacher_score=pl.lit(5.0) + pl.when(pl.col("order") == "teacher_first").then(more).otherwise(0.0),
            status=pl.lit("scored"),
            reason=pl.lit(None),
        )

    return change


@pytest.mark.parametrize(
    ("bias", "said"),
    [
        (1.0, "The judge favours the answer shown first, by "),
        (-1.0, "The judge favours the answer shown second, by "),
        (0.0, "No favoured position can be told from "),
    ],
)
def test_a_favoured_position_is_said_in_words(tmp_path: Path, bias: float, said: str) -> None:
    sentence = position_sentence(summarise_judge(judged_run(tmp_path, biased_by(bias)), 1))
    assert sentence.startswith(said)
    assert "95 % interval" in sentence


def test_one_order_and_pointwise_say_why_nothing_can_be_told(tmp_path: Path) -> None:
    one = judged_run(tmp_path / "one", lambda rows: rows.filter(order="teacher_first"), orders=["teacher_first"])
    assert position_sentence(summarise_judge(one, 1)).startswith(
        "The judge saw every pair in one order only, teacher first, so a favoured position cannot be told"
    )
    assert agreement_sentence(summarise_judge(one, 1)) == ""
    pointwise = judged_run(tmp_path / "two", EDGES["no verdicts"], mode="pointwise")
    assert "there is no position to favour" in position_sentence(summarise_judge(pointwise, 1))


def test_a_judge_who_always_ties_is_no_good_judge_and_no_crash(tmp_path: Path) -> None:
    found = summarise_judge(judged_run(tmp_path, EDGES["all ties"]), 1)
    assert "not defined (every row has the same class)" in agreement_sentence(found)
    assert "cannot be told: rank correlation" in length_sentence(found)
    assert unscored_sentence(found).startswith("All ")


def test_nothing_scored_is_said_with_the_most_frequent_reason(tmp_path: Path) -> None:
    found = summarise_judge(judged_run(tmp_path, EDGES["nothing scored"]), 1)
    assert "(100.0 %) are unscored; the most frequent reason is “no verdict”" in unscored_sentence(found)
    assert agreement_sentence(found) == "No instruction is scored in both orders, so their agreement is not defined."
    assert "cannot be told" in position_sentence(found)


def test_no_figure_is_a_negative_zero() -> None:
    assert (points(-0.001), correlation(-0.001)) == ("+0.00", "0.00")


@pytest.mark.parametrize(
    ("estimate", "told"),
    [
        (Estimate(0.5, 0.25, 0.75, 9), "+0.50 (95 % interval +0.25 to +0.75)"),
        (Estimate(0.5, n=1, note="1 row only"), "+0.50 (no interval: 1 row only)"),
        (Estimate(None, note="nothing to measure"), "not defined (nothing to measure)"),
    ],
)
def test_a_figure_comes_with_its_interval_or_a_reason(estimate: Estimate, told: str) -> None:
    assert in_words(estimate, points) == told
