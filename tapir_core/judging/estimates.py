"""Statistics of a judge with 95 % intervals: mean, share, rank correlation, Cohen's kappa. Pure, in closed form.

What cannot be defined is a value with a reason, never NaN. Limits: intervals take the rows as independent and are
those of large samples (Student's t for means, Wilson's for shares, Bonett and Wright's for Spearman, Fleiss, Cohen and
Everitt's for kappa); below ``FEWEST_ROWS`` rows there is none for all but shares. Ties take their mean rank.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import polars as pl

__all__ = [
    "FEWEST_ROWS",
    "Estimate",
    "estimate_kappa",
    "estimate_mean",
    "estimate_share",
    "estimate_spearman",
    "share_interval",
    "student_t",
]

FEWEST_ROWS = 4
"""Rows that an interval needs; Spearman's has none below, and our t is right to 0.1 % from here on."""

_Z = NormalDist().inv_cdf(0.975)
_DIGITS = 12
_NO_SPREAD = 1e-7
_NOTHING = "nothing to measure"


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


def share_interval(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a ``share`` (0-1) of ``n`` independent rows, at least one; within 0 and 1."""
    spread = _Z**2 / n
    centre = (share + spread / 2) / (1 + spread)
    margin = _Z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # At 0 and 1 an end is the share itself but for rounding.
    return min(share, max(0.0, centre - margin)), max(share, min(1.0, centre + margin))


def estimate_spearman(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Spearman's rank correlation of two columns of equal length, -1 to 1."""
    n = len(first)
    if n < 2:
        return Estimate(None, n, why=_few(n) if n else _NOTHING)
    if len(set(first)) == 1 or len(set(second)) == 1:
        return Estimate(None, n, why="one of the two never changes")
    value = _correlate(_ranks(first), _ranks(second))
    if n < FEWEST_ROWS:
        return Estimate(value, n, why=_few(n))
    if abs(value) == 1.0:
        return Estimate(value, n, why="both rank the rows alike" if value > 0 else "each ranks the rows the other way")
    centre, margin = math.atanh(value), _Z * math.sqrt((1 + value**2 / 2) / (n - 3))
    return Estimate(value, n, math.tanh(centre - margin), math.tanh(centre + margin))


def estimate_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> Estimate:
    """Cohen's kappa of two columns of classes: agreement beyond chance; 1 is full agreement, 0 that of chance."""
    n = len(first)
    if not n:
        return Estimate(None, 0, why=_NOTHING)
    both = {pair: count / n for pair, count in Counter(zip(first, second, strict=True)).items()}
    rows, columns = ({name: count / n for name, count in Counter(side).items()} for side in (first, second))
    agreed = math.fsum(share for (one, other), share in both.items() if one == other)
    chance = math.fsum(share * columns.get(name, 0.0) for name, share in rows.items())
    if chance == 1.0:
        return Estimate(None, n, why="every row has the same class")
    kappa = (agreed - chance) / (1 - chance)
    if n < FEWEST_ROWS:
        return Estimate(kappa, n, why=_few(n))
    stderr = math.sqrt(_kappa_variance(both, rows, columns, kappa, chance) / n)
    if stderr < _NO_SPREAD:
        return Estimate(kappa, n, why="the rows leave no spread to take an interval from")
    return Estimate(kappa, n, max(-1.0, kappa - _Z * stderr), min(1.0, kappa + _Z * stderr), stderr)


def student_t(degrees: float) -> float:
    """The 97.5 % point of Student's t, from 3 degrees of freedom on.

    By its expansion around the normal one (Abramowitz and Stegun 26.7.5).
    """
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def _kappa_variance(
    both: Mapping[tuple[Hashable, Hashable], float],
    rows: Mapping[Hashable, float],
    columns: Mapping[Hashable, float],
    kappa: float,
    chance: float,
) -> float:
    """Variance of kappa times n, from the joint shares and both margins."""
    terms = []
    for (one, other), share in both.items():
        if one == other:
            terms.append(share * (1 - (rows[one] + columns[one]) * (1 - kappa)) ** 2)
        else:
            margins = columns.get(one, 0.0) + rows.get(other, 0.0)
            terms.append(share * (1 - kappa) ** 2 * margins**2)
    terms.append(-((kappa - chance * (1 - kappa)) ** 2))
    return max(0.0, math.fsum(terms)) / (1 - chance) ** 2


def _ranks(values: Sequence[float]) -> list[float]:
    ranks: list[float] = pl.Series(values, dtype=pl.Float64).rank("average").to_list()
    return ranks


def _correlate(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's correlation of ranks, free of rounding errors at its ends."""
    middle = (len(first) + 1) / 2
    steps = [(one - middle, other - middle) for one, other in zip(first, second, strict=True)]
    shared, own, others = (math.fsum(terms) for terms in zip(*((a * b, a * a, b * b) for a, b in steps), strict=True))
    return round(shared / math.sqrt(own * others), _DIGITS)


def _few(n: int) -> str:
    return f"{n} row{'s' if n > 1 else ''} only"
