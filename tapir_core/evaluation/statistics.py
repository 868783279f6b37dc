"""Figures of a benchmark: never without n, the number that failed and an interval, or the reason why there is none.

Pure. Estimates are those of judges (`tapir_core.judging.estimates`: 95 %, Student's t, Wilson's for shares); here is
what benchmarks and the held-out set need beside them. Where the ends of a scale are known, an interval stays between
them. It is Wilson's where every item lies at one of the ends: such a mean is a share, and its interval has a width also
where all items lie at the same end, where Student's t has none.

None among values marks one that failed: it is left out and counted, never averaged in as a number. Where more than a
stated share failed there is no figure at all, since failures are no random sample.

Limits: a ratio and a mean over clusters have the interval of their linearisation (that of large samples); items are
taken as independent.
"""

import math
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tapir_core.judging.estimates import Estimate, estimate_mean, estimate_share, share_interval, student_t

__all__ = [
    "ALL",
    "MAX_FAILED_SHARE",
    "PERCENT",
    "SHARE",
    "Figure",
    "PairedDifference",
    "Scale",
    "by_category",
    "compare_paired",
    "estimate_difference",
    "estimate_ratio",
    "mean_figure",
    "ratio_figure",
    "share_figure",
]

MAX_FAILED_SHARE = 0.05
"""Share of failures (0-1) above which there is no figure, where the caller states none."""

ALL = "all"
"""Category of the whole, as in ``scores/``."""

Scale = tuple[float, float]
"""The lowest and the highest value that an item can have."""

SHARE, PERCENT = (0.0, 1.0), (0.0, 100.0)

_JUDGMENTS = "judgments"
"""What is counted, where the caller does not say."""

_SIGN_DRAWS = 10_000
_DRAWS_AT_ONCE = 1_000


class _Categorised(Protocol):
    @property
    def category(self) -> str: ...


_Row = TypeVar("_Row", bound=_Categorised)
_Measured = TypeVar("_Measured")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its interval and with what is not in it."""

    estimate: Estimate
    """Its ``n`` counts what is in the figure; its ``why`` says why there is no figure, or no interval."""
    n_failed: int
    """How many values failed and are not in ``n``."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Two students on the same items: the first one's mean minus the second one's, in the unit of the values."""

    difference: Estimate
    p_value: float | None
    """Two-sided, of the hypothesis that it is a toss-up for each item whose value is whose; None without a figure."""
    n_failed: int
    """Items without a value of both."""


def by_category(rows: Sequence[_Row], measure: Callable[[Sequence[_Row]], _Measured]) -> dict[str, _Measured]:
    """What ``measure`` finds in all rows (`ALL`), and in those of each category, in the order of the rows."""
    names = dict.fromkeys(row.category for row in rows)
    return {ALL: measure(rows), **{name: measure([row for row in rows if row.category == name]) for name in names}}


def mean_figure(
    values: Sequence[float | None],
    *,
    clusters: Sequence[Hashable] | None = None,
    scale: Scale | None = None,
    max_failed_share: float = MAX_FAILED_SHARE,
    unit: str = _JUDGMENTS,
) -> Figure:
    """The mean of the values that did not fail.

    Args:
        values: one an item, None where it failed.
        clusters: what each value belongs to where several are of one item (both turns of a question): the mean stays
            that of all values, the interval takes clusters as independent and not values.
        scale: where given, the interval stays on it; value and standard error do not change.
        max_failed_share: above this share of None (0-1) there is no figure.
        unit: what is counted, where it says how many failed.
    """
    kept = [value for value in values if value is not None]
    failed = len(values) - len(kept)
    if why := _too_many(failed, len(values), max_failed_share, unit):
        return Figure(Estimate(None, len(kept), why=why), failed)
    if clusters is None:
        return Figure(_on_scale(estimate_mean(kept), [(value, 1) for value in kept], scale), failed)
    groups: dict[Hashable, list[float]] = {}
    for cluster, value in zip(clusters, values, strict=True):
        if value is not None:
            groups.setdefault(cluster, []).append(value)
    sums = [(math.fsum(group), len(group)) for group in groups.values()]
    means = estimate_ratio([top for top, _ in sums], [bottom for _, bottom in sums])
    return Figure(replace(_on_scale(means, sums, scale), n=len(kept)), failed)


def share_figure(marks: Sequence[bool | None], *, max_failed_share: float = MAX_FAILED_SHARE) -> Figure:
    """Share (0-1) of the answers that are right, with Wilson's interval; None marks one that failed."""
    kept = [mark for mark in marks if mark is not None]
    failed = len(marks) - len(kept)
    if why := _too_many(failed, len(marks), max_failed_share, "answers"):
        return Figure(Estimate(None, len(kept), why=why), failed)
    return Figure(estimate_share(sum(kept), len(kept)), failed)


def ratio_figure(
    pairs: Sequence[tuple[float, float] | None],
    *,
    scale: Scale | None = None,
    max_failed_share: float = MAX_FAILED_SHARE,
    unit: str = _JUDGMENTS,
) -> Figure:
    """Sum of the first of each pair ÷ sum of the second, over the pairs that did not fail.

    ``unit`` names the pairs; ``scale`` is that of the ratio of a pair, as `mean_figure` takes it.
    """
    kept = [pair for pair in pairs if pair is not None]
    failed = len(pairs) - len(kept)
    if why := _too_many(failed, len(pairs), max_failed_share, unit):
        return Figure(Estimate(None, len(kept), why=why), failed)
    found = estimate_ratio([top for top, _ in kept], [bottom for _, bottom in kept])
    return Figure(_on_scale(found, kept, scale), failed)


def estimate_ratio(tops: Sequence[float], bottoms: Sequence[float]) -> Estimate:
    """Sum of ``tops`` ÷ sum of ``bottoms``, a pair an item; the interval is that of the linearised ratio."""
    n, whole = len(tops), math.fsum(bottoms)
    if not n or not whole:
        return Estimate(None, n, why="nothing to measure" if not n else "a ratio to 0")
    ratio = math.fsum(tops) / whole
    linear = [ratio + (top - ratio * bottom) * n / whole for top, bottom in zip(tops, bottoms, strict=True)]
    # Their mean is the ratio but for rounding.
    return replace(estimate_mean(linear), value=ratio)


def estimate_difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of ``first`` minus mean of ``second``, two sets of different items, with Welch's interval.

    No interval where one of the two is too small to show its spread.
    """
    n = len(first) + len(second)
    if not first or not second:
        return Estimate(None, n, why="one of the two has no items")
    one, other = estimate_mean(first), estimate_mean(second)
    difference = math.fsum(first) / len(first) - math.fsum(second) / len(second)
    if one.stderr is None or other.stderr is None:
        return Estimate(difference, n, why=f"{len(first)} items against {len(second)} only")
    of_one, of_other = one.stderr**2, other.stderr**2
    stderr = math.sqrt(of_one + of_other)
    spread = of_one**2 / (one.n - 1) + of_other**2 / (other.n - 1)
    margin = student_t((of_one + of_other) ** 2 / spread) * stderr if spread else 0.0
    return Estimate(difference, n, difference - margin, difference + margin, stderr)


def compare_paired(
    first: Mapping[str, float | None],
    second: Mapping[str, float | None],
    *,
    rng: random.Random,
    max_failed_share: float = MAX_FAILED_SHARE,
    unit: str = _JUDGMENTS,
) -> PairedDifference:
    """Compare two students, item by item: difference with its t interval, p-value of a sign-flip test.

    An item that lacks in one, or failed there, counts as failed. Several values of one item (both turns of a
    question) are to be averaged before.

    Args:
        first: item → value of the first student.
        second: item → value of the second student.
        rng: draws the signs (10,000 times).
        max_failed_share: above this share of failed items (0-1) there is no figure.
        unit: what is counted, where it says how many failed.
    """
    items = sorted({*first, *second})
    pairs = [(first.get(item), second.get(item)) for item in items]
    differences = [None if one is None or other is None else one - other for one, other in pairs]
    found = mean_figure(differences, max_failed_share=max_failed_share, unit=unit)
    if found.estimate.value is None:
        return PairedDifference(found.estimate, None, found.n_failed)
    kept = np.array([each for each in differences if each is not None])
    return PairedDifference(found.estimate, _sign_flip_p(kept, rng), found.n_failed)


def _on_scale(found: Estimate, items: Sequence[tuple[float, float]], scale: Scale | None) -> Estimate:
    """With an interval between the ends of the scale; ``items`` are the sum and the weight of each."""
    if scale is None or found.value is None or found.low is None or found.high is None:
        return found
    lowest, highest = scale
    if all(top in (lowest * weight, highest * weight) for top, weight in items):
        # Of unequal weights there are as many items as would say as much with equal ones (Kish).
        n = math.fsum(weight for _, weight in items) ** 2 / math.fsum(weight**2 for _, weight in items)
        span = highest - lowest
        low, high = (lowest + span * end for end in share_interval((found.value - lowest) / span, n))
    else:
        low, high = max(lowest, found.low), min(highest, found.high)
    # Ratings may leave a scale that is not checked, and the interval holds its value nevertheless.
    return replace(found, low=min(low, found.value), high=max(high, found.value))


def _sign_flip_p(differences: NDArray[np.float64], rng: random.Random) -> float:
    """Share of draws of signs whose sum is as far from 0; the sum as it is counts as one draw, so it is never 0."""
    draws = np.random.default_rng(rng.getrandbits(128))
    seen = abs(math.fsum(differences))
    as_far = 1
    for _ in range(_SIGN_DRAWS // _DRAWS_AT_ONCE):
        signs = draws.integers(0, 2, size=(_DRAWS_AT_ONCE, differences.size)) * 2 - 1
        as_far += int(np.count_nonzero(np.abs(signs @ differences) >= seen * (1 - 1e-12)))
    return as_far / (_SIGN_DRAWS + 1)


def _too_many(failed: int, n: int, max_share: float, unit: str = _JUDGMENTS) -> str:
    if not failed or failed / n <= max_share:
        return ""
    return f"{failed} of {n} {unit} failed ({failed / n:.1%}), more than the {max_share:.1%} allowed"
