"""Statistics of a judge with 95 % intervals: mean, share, rank correlation, Cohen's kappa. Pure, in closed form.

What cannot be defined is a value with a reason, never NaN. Limits: intervals take the rows as independent and are
those of large samples (Student's t for means, Wilson's for shares, Bonett and Wright's for Spearman, Fleiss, Cohen and
Everitt's for kappa); below ``FEWEST_ROWS`` rows there is none for all but shares. Ties take their mean rank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import polars as pl

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
    both = pl.DataFrame({"one": first, "other": second}, schema={"one": pl.Float64, "other": pl.Float64})
    value = round(both.select(pl.corr("one", "other", method="spearman")).item(), _DIGITS)
    if n < FEWEST_ROWS:
        return Estimate(value, n, why=_few(n))
    if abs(value) == 1.0:
        return Estimate(value, n, why="both rank the rows alike" if value > 0 else "each ranks the rows the other way")
    centre, margin = math.atanh(value), _Z * math.sqrt((1 + value**2 / 2) / (n - 3))
    return Estimate(value, n, math.tanh(centre - margin), math.tanh(centre + margin))


def estimate_kappa(first: Sequence[str], second: Sequence[str]) -> Estimate:
    """Cohen's kappa of two columns of classes: agreement beyond chance; 1 is full agreement, 0 that of chance."""
    n = len(first)
    if not n:
        return Estimate(None, 0, why=_NOTHING)
    place = {name: number for number, name in enumerate(dict.fromkeys([*first, *second]))}
    counts = np.zeros((len(place), len(place)))
    np.add.at(counts, ([place[name] for name in first], [place[name] for name in second]), 1)
    shares = counts / n
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    agreed, chance = float(shares.trace()), float(rows @ columns)
    if len(place) == 1:
        return Estimate(None, n, why="every row has the same class")
    kappa = (agreed - chance) / (1 - chance)
    if n < FEWEST_ROWS:
        return Estimate(kappa, n, why=_few(n))
    # The variance of Fleiss, Cohen and Everitt (1969) from the joint shares and both margins.
    moves = np.eye(len(place)) - (1 - kappa) * np.add.outer(columns, rows)
    variance = float((shares * moves**2).sum()) - (kappa - chance * (1 - kappa)) ** 2
    stderr = math.sqrt(max(0.0, variance) / n) / (1 - chance)
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


def _few(n: int) -> str:
    return f"{n} row{'s' if n > 1 else ''} only"
