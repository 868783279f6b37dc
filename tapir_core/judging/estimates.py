"""Estimates with 95 % intervals, and a judge's agreement with itself, with other judges and with length. Pure.

Estimates are a mean, a ratio, a difference of means, a share, a rank correlation and Cohen's kappa. What cannot be
defined is a value with a reason, never NaN. Wilson's interval, and kappa with its variance (Fleiss, Cohen and Everitt),
are statsmodels', which is imported where it is used, since that takes a second that no short command should wait.
Limits: intervals take the rows as independent and, but for means (Student's t) and shares, are those of large samples
(Spearman's is Bonett and Wright's); below ``FEWEST_ROWS`` rows there is none for all but shares. Ties take their mean
rank.

Agreement is measured over instructions, never over single verdicts, because the two orders of an instruction are no
independent rows. An instruction counts where all verdicts that a measure needs are scored. But for `compare_judges`,
verdicts are those of one judge, or of several combined. Limits: that scores go with length is no proof of a bias, since
a longer answer can be the better one. The correlation of the differences is the one to look at: it compares two answers
to the same instruction. Length is in characters.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist
from typing import Literal

import numpy as np
import polars as pl

FEWEST_ROWS = 4
"""Rows that an interval needs; Spearman's has none below, and our t is right to 0.12 % from here on."""

_Z = NormalDist().inv_cdf(0.975)
_RANK_DIGITS = 12
_NO_SPREAD = 1e-7
_NOTHING = "nothing to measure"

WINNERS = ("teacher", "tie", "student")
"""Whose answer has the higher score."""

_DIGITS = 9
"""As in the MFD: scores with decimals must not miss a tie by a rounding error."""

NO_TASK_TYPE = "no task type"
"""Category of instructions that came without a task type."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic of ``n`` rows with its 95 % interval, or why there is none."""

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    stderr: float | None = None
    why: str = ""
    """Why the value is not defined or, where there is one, its interval; empty when both are."""


@dataclass(frozen=True, slots=True)
class OrderAgreement:
    """One judge in its two orders, over the instructions that are scored in both."""

    gap: Estimate
    """Mean order gap in points of the scale, with its standard error."""
    same_winner: Estimate
    """Share with the same winner in both orders; a tie is a winner of its own."""
    kappa: Estimate
    """Cohen's kappa of the winners."""
    spearman: Estimate
    """Rank correlation of the MFD in one order with that in the other."""
    winners: dict[tuple[str, str], int]
    """(winner with the teacher first, winner with the student first) → instructions, all nine pairs."""


@dataclass(frozen=True, slots=True)
class JudgePair:
    """Two judges, over the instructions that both scored in every order."""

    first: str
    second: str
    same_winner: Estimate
    kappa: Estimate
    spearman: Estimate


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


def estimate_mean(values: Sequence[float]) -> Estimate:
    """The mean, in the unit of ``values``."""
    n = len(values)
    if not n:
        return Estimate(None, 0, why=_NOTHING)
    mean = math.fsum(values) / n
    if n < FEWEST_ROWS:
        return Estimate(mean, n, why=_few(n))
    stderr = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    margin = student_t(n - 1) * stderr
    return Estimate(mean, n, mean - margin, mean + margin, stderr)


def estimate_share(hits: int, n: int) -> Estimate:
    """``hits`` of ``n`` as a share (0-1)."""
    if not n:
        return Estimate(None, 0, why=_NOTHING)
    share = hits / n
    return Estimate(share, n, *share_interval(share, n), math.sqrt(share * (1 - share) / n))


def estimate_ratio(pairs: Sequence[tuple[float, float]]) -> Estimate:
    """Sum of the first of each pair ÷ sum of the second, a pair an item, with the interval of the linearised ratio."""
    n, whole = len(pairs), math.fsum(bottom for _, bottom in pairs)
    if not n or not whole:
        return Estimate(None, n, why="a ratio to 0" if n else _NOTHING)
    ratio = math.fsum(top for top, _ in pairs) / whole
    # Their mean is the ratio but for rounding.
    linear = [ratio + (top - ratio * bottom) * n / whole for top, bottom in pairs]
    return replace(estimate_mean(linear), value=ratio)


def estimate_difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of ``first`` minus mean of ``second``, two sets of different items, with Welch's interval.

    No interval where one of the two is too small to show its spread.
    """
    n, one, other = len(first) + len(second), estimate_mean(first), estimate_mean(second)
    if one.value is None or other.value is None:
        return Estimate(None, n, why="one of the two has no items")
    difference = one.value - other.value
    if one.stderr is None or other.stderr is None:
        return Estimate(difference, n, why=f"{one.n} items against {other.n} only")
    of_one, of_other = one.stderr**2, other.stderr**2
    spread = of_one**2 / (one.n - 1) + of_other**2 / (other.n - 1)
    stderr = math.sqrt(of_one + of_other)
    margin = student_t((of_one + of_other) ** 2 / spread) * stderr if spread else 0.0
    return Estimate(difference, n, difference - margin, difference + margin, stderr)


def estimate_spearman(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Spearman's rank correlation of two columns of equal length, -1 to 1."""
    n = len(first)
    if n < 2:
        return Estimate(None, n, why=_few(n) if n else _NOTHING)
    if len(set(first)) == 1 or len(set(second)) == 1:
        return Estimate(None, n, why="one of the two never changes")
    one, other = (pl.Series(each, dtype=pl.Float64) for each in (first, second))
    value = round(pl.select(pl.corr(one, other, method="spearman")).item(), _RANK_DIGITS)
    if n < FEWEST_ROWS:
        return Estimate(value, n, why=_few(n))
    if abs(value) == 1.0:
        return Estimate(value, n, why="both rank the rows alike" if value > 0 else "each ranks the rows the other way")
    centre, margin = math.atanh(value), _Z * math.sqrt((1 + value**2 / 2) / (n - 3))
    return Estimate(value, n, math.tanh(centre - margin), math.tanh(centre + margin))


def estimate_kappa(first: Sequence[str], second: Sequence[str]) -> Estimate:
    """Cohen's kappa of two columns of classes: agreement beyond chance; 1 is full agreement, 0 that of chance."""
    from statsmodels.stats.inter_rater import cohens_kappa

    n, classes = len(first), list(dict.fromkeys([*first, *second]))
    if len(classes) < 2:
        return Estimate(None, n, why="every row has the same class" if n else _NOTHING)
    counts = Counter(zip(first, second, strict=True))
    # A variance of 0 may come out a rounding error below it, and the largest kappa there may be, unused, as 0 ÷ 0.
    with np.errstate(invalid="ignore"):
        found = cohens_kappa(np.array([[counts[one, other] for other in classes] for one in classes]))
    kappa, stderr = float(found.kappa), float(found.std_kappa)
    if n < FEWEST_ROWS:
        return Estimate(kappa, n, why=_few(n))
    if not stderr > _NO_SPREAD:
        return Estimate(kappa, n, why="the rows leave no spread to take an interval from")
    return Estimate(kappa, n, max(-1.0, kappa - _Z * stderr), min(1.0, kappa + _Z * stderr), stderr)


def share_interval(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a ``share`` (0-1) of ``n`` independent rows, at least one; within 0 and 1."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(share * n, n, method="wilson")
    # At 0 and 1 an end is the share itself but for rounding.
    return min(share, max(0.0, float(low))), max(share, min(1.0, float(high)))


def student_t(degrees: float) -> float:
    """The 97.5 % point of Student's t, from 3 degrees of freedom on.

    By its expansion around the normal one (Abramowitz and Stegun 26.7.5), 0.12 % below the exact one at 3 degrees and
    0.005 % at 6: recorded intervals rest on it.
    """
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def mean_scores(verdicts: pl.DataFrame, orders: Sequence[str]) -> pl.DataFrame:
    """instruction_id, student_score, teacher_score, mfd: means over ``orders``, sorted by id.

    One row an instruction that is scored in every one of ``orders``.
    """
    return (
        _scored(verdicts)
        .filter(pl.col("order").is_in(list(orders)))
        .group_by("instruction_id")
        .agg(
            pl.col("student_score", "teacher_score", "mfd").mean().round(_DIGITS),
            pl.col("order").n_unique().alias("orders"),
        )
        .filter(pl.col("orders") == len(set(orders)))
        .sort("instruction_id")
        .drop("orders")
    )


def pair_orders(verdicts: pl.DataFrame) -> pl.DataFrame:
    """instruction_id, teacher_first, student_first (the MFD in that order), order_gap; sorted by id.

    One row an instruction that is scored in both orders; empty when the judge was asked in one order only.
    """
    scored = _scored(verdicts)
    one, other = (
        scored.filter(order=order).select("instruction_id", pl.col("mfd").alias(order))
        for order in ("teacher_first", "student_first")
    )
    return (
        one.join(other, on="instruction_id", validate="1:1")
        .with_columns(order_gap=(pl.col("teacher_first") - pl.col("student_first")).round(_DIGITS))
        .sort("instruction_id")
    )


def measure_orders(pairs: pl.DataFrame) -> OrderAgreement:
    """Agreement between the orders; ``pairs`` is what `pair_orders` gives."""
    one, other = _winners(pairs["teacher_first"]), _winners(pairs["student_first"])
    together = Counter(zip(one, other, strict=True))
    return OrderAgreement(
        estimate_mean(pairs["order_gap"].to_list()),
        *_agree(pairs["teacher_first"], pairs["student_first"]),
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
        JudgePair(first, second, *_agree(both["mfd"], both["mfd_other"])) for (first, second), both in pairs.items()
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


def _few(n: int) -> str:
    return f"{n} row{'s' if n > 1 else ''} only"


def _agree(first: pl.Series, second: pl.Series) -> tuple[Estimate, Estimate, Estimate]:
    """Of two MFD an instruction: the share with the same winner, kappa of the winners, rank correlation."""
    one, other = _winners(first), _winners(second)
    same = sum(winner == another for winner, another in zip(one, other, strict=True))
    return estimate_share(same, len(one)), estimate_kappa(one, other), estimate_spearman([*first], [*second])


def _winners(mfd: pl.Series) -> list[str]:
    """Whose answer has the higher score."""
    return ["teacher" if gap > 0 else "student" if gap < 0 else "tie" for gap in mfd]


def _scored(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Scored verdicts with the MFD of their own order."""
    gap = (pl.col("teacher_score") - pl.col("student_score")).round(_DIGITS)
    return verdicts.filter(status="scored").drop_nulls(["student_score", "teacher_score"]).with_columns(mfd=gap)
