"""A judge's agreement with itself, with other judges and with length. Pure.

Agreement is measured over instructions, never over single verdicts, because the two orders of an instruction are no
independent rows. An instruction counts where all verdicts that a measure needs are scored. But for `compare_judges`,
verdicts are those of one judge, or of several combined. Limits: that scores go with length is no proof of a bias, since
a longer answer can be the better one. The correlation of the differences is the one to look at: it compares two answers
to the same instruction. Length is in characters.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import polars as pl

from tapir_core.statistics import Estimate, estimate_kappa, estimate_mean, estimate_share, estimate_spearman

WINNERS = ("teacher", "tie", "student")
"""Whose answer has the higher score."""

_DIGITS = 9
"""Scores with decimals must not miss a tie, or become harder than δ, by a rounding error in the 16th digit."""

NO_TASK_TYPE = "no task type"
"""Category of instructions that came without a task type."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two MFD of each instruction: of one judge in its two orders, or of two judges."""

    same_winner: Estimate
    """Share with the same winner in both; a tie is a winner of its own."""
    kappa: Estimate
    """Cohen's kappa of the winners."""
    spearman: Estimate
    """Rank correlation of the two."""


@dataclass(frozen=True, slots=True)
class OrderAgreement(Agreement):
    """One judge in its two orders, over the instructions that are scored in both."""

    gap: Estimate
    """Mean order gap in points of the scale, with its standard error."""
    winners: dict[tuple[str, str], int]
    """(winner with the teacher first, winner with the student first) → instructions, all nine pairs."""


@dataclass(frozen=True, slots=True)
class JudgePair(Agreement):
    """Two judges, over the instructions that both scored in every order."""

    first: str
    second: str


@dataclass(frozen=True, slots=True)
class LengthEffects:
    """Spearman's correlations over the scored instructions."""

    student: Estimate
    """The student's score with the length of its answer."""
    teacher: Estimate
    """The teacher's score with the length of its answer."""
    difference: Estimate
    """MFD with how much longer the teacher's answer is."""


@dataclass(frozen=True, slots=True)
class UnscoredVerdicts:
    """Unscored verdicts of a round."""

    share: Estimate
    """Of all verdicts."""
    reasons: dict[str, int]
    """Reason → verdicts, the most frequent first, then by name."""
    task_types: dict[str, Estimate]
    """Task type → unscored share of its verdicts; the highest share first, then by name."""


BOTH_ORDERS = ("teacher_first", "student_first")


def mfd_of(order: str) -> pl.Expr:
    """Of an instruction's verdicts the MFD in one order."""
    return pl.col("mfd").filter(pl.col("order") == order).mean()


ORDER_GAP = (mfd_of("teacher_first") - mfd_of("student_first")).round(_DIGITS)
"""Of an instruction's verdicts: how far the order of the two answers moves the MFD."""


def mean_scores(verdicts: pl.DataFrame, orders: Sequence[str], **more: pl.Expr) -> pl.DataFrame:
    """instruction_id, student_score, teacher_score, mfd: means over ``orders``, sorted by id; then ``more``.

    One row an instruction that is scored in every one of ``orders``. ``more`` are figures of its verdicts in these, by
    name; a verdict has the `mfd` of its own order.
    """
    return (
        verdicts.filter(pl.col("order").is_in(list(orders)), status="scored")
        .drop_nulls(["student_score", "teacher_score"])
        .with_columns(mfd=(pl.col("teacher_score") - pl.col("student_score")).round(_DIGITS))
        .group_by("instruction_id")
        .agg(
            pl.col("student_score", "teacher_score", "mfd").mean().round(_DIGITS),
            pl.col("order").n_unique().alias("orders"),
            **more,
        )
        .filter(pl.col("orders") == len(set(orders)))
        .sort("instruction_id")
        .drop("orders")
    )


def pair_orders(verdicts: pl.DataFrame) -> pl.DataFrame:
    """instruction_id, teacher_first, student_first (the MFD in that order), order_gap; sorted by id.

    One row an instruction that is scored in both orders; empty when the judge was asked in one order only.
    """
    assert not verdicts.filter(status="scored").select("instruction_id", "order").is_duplicated().any(), "two verdicts"
    gaps = {order: mfd_of(order) for order in BOTH_ORDERS}
    return mean_scores(verdicts, BOTH_ORDERS, **gaps, order_gap=ORDER_GAP).select("instruction_id", *gaps, "order_gap")


def measure_orders(pairs: pl.DataFrame) -> OrderAgreement:
    """Agreement between the orders; ``pairs`` is what `pair_orders` gives."""
    one, other = _winners(pairs["teacher_first"]), _winners(pairs["student_first"])
    together = Counter(zip(one, other, strict=True))
    return OrderAgreement(
        *_agree(pairs["teacher_first"], pairs["student_first"]),
        estimate_mean(pairs["order_gap"].to_list()),
        {(first, second): together[first, second] for first in WINNERS for second in WINNERS},
    )


def favoured_position(gap: Estimate) -> Literal["first", "second", "neither"] | None:
    """The position that the judge favours: where the order gap's whole interval lies; nothing without an interval."""
    if gap.low is None or gap.high is None:
        return None
    return "first" if gap.low > 0 else "second" if gap.high < 0 else "neither"


def compare_judges(verdicts: pl.DataFrame, orders: Sequence[str]) -> tuple[JudgePair, ...]:
    """Every two of the judges in ``verdicts``, by name: how often and how closely they agree."""
    scores = {
        name: mean_scores(verdicts.filter(judge=name), orders).select("instruction_id", "mfd")
        for name in sorted(verdicts["judge"].unique())
    }
    pairs = {
        (first, second): scores[first].join(scores[second], on="instruction_id", suffix="_other", validate="1:1")
        for first, second in combinations(scores, 2)
    }
    return tuple(
        JudgePair(*_agree(both["mfd"], both["mfd_other"]), first, second) for (first, second), both in pairs.items()
    )


def with_lengths(scores: pl.DataFrame, student: pl.DataFrame, teacher: pl.DataFrame) -> pl.DataFrame:
    """Adds student_chars and teacher_chars to what `mean_scores` gives; instructions without an answer leave.

    ``student`` and ``teacher`` have instruction_id and response, one row an instruction.
    """
    for who, answers in (("student", student), ("teacher", teacher)):
        lengths = answers.drop_nulls("response").select(
            "instruction_id", pl.col("response").str.len_chars().cast(pl.Int64).alias(f"{who}_chars")
        )
        scores = scores.join(lengths, on="instruction_id", validate="1:1", maintain_order="left")
    return scores


def measure_length(rows: pl.DataFrame) -> LengthEffects:
    """Correlations of score and length; ``rows`` is what `with_lengths` gives."""
    return LengthEffects(
        estimate_spearman(rows["student_score"].to_list(), rows["student_chars"].to_list()),
        estimate_spearman(rows["teacher_score"].to_list(), rows["teacher_chars"].to_list()),
        estimate_spearman(rows["mfd"].to_list(), (rows["teacher_chars"] - rows["student_chars"]).to_list()),
    )


def count_unscored_verdicts(verdicts: pl.DataFrame, labels: pl.DataFrame) -> UnscoredVerdicts:
    """Shares of verdicts without scores; ``labels`` has instruction_id and task_type, one row an instruction."""
    rows = verdicts.join(labels.select("instruction_id", "task_type"), on="instruction_id", how="left", validate="m:1")
    missing = rows.filter(pl.col("status") != "scored")
    reasons = Counter(reason or "no reason given" for reason in missing["reason"])
    asked, lost = (Counter(name or NO_TASK_TYPE for name in each["task_type"]) for each in (rows, missing))
    shares = {name: estimate_share(lost[name], n) for name, n in asked.items()}
    return UnscoredVerdicts(
        estimate_share(missing.height, rows.height),
        dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        dict(sorted(shares.items(), key=lambda item: (-(item[1].value or 0.0), item[0]))),
    )


def _agree(first: pl.Series, second: pl.Series) -> tuple[Estimate, Estimate, Estimate]:
    """Of two MFD an instruction: the share with the same winner, kappa of the winners, rank correlation."""
    one, other = _winners(first), _winners(second)
    same = sum(winner == another for winner, another in zip(one, other, strict=True))
    return estimate_share(same, len(one)), estimate_kappa(one, other), estimate_spearman([*first], [*second])


def _winners(mfd: pl.Series) -> list[str]:
    """Whose answer has the higher score."""
    return ["teacher" if gap > 0 else "student" if gap < 0 else "tie" for gap in mfd]
