"""Figures over several trainings of one recipe: their mean with intervals that cover both run seeds and items.

Pure. A training has a run seed, and a value for each held-out item. The hierarchical bootstrap draws run seeds with
replacement, and items with replacement within them; where run seeds have their items in common, one draw of items
holds for all. Few run seeds show their own spread badly: the draws are spread as Student's t is, with the degrees of
freedom of Welch and Satterthwaite. The intervals are percentiles of the draws, and the p-value is that of the same
draws, so that the two agree. Every run seed has the same weight, however many items it has.

Limits: with one run seed nothing says how much another would differ, and the intervals cover items only. With several,
the spread of items is in the spread between run seeds too, so that intervals are rather too wide where run seeds differ
little (docs/compare.md has the shares that were seen).
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRAWS", "Covers", "Resampled", "Values", "paired_values", "resample"]

DRAWS = 10_000
"""Draws of a bootstrap."""

Values = Mapping[int, Mapping[str, float]]
"""Run seed → item → value."""

Covers = Literal["items", "items and run seeds"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Resampled:
    """A mean over run seeds and items, in the unit of its values."""

    value: float
    run_seeds: int
    items: int
    """Of all run seeds together; an item that several of them have counts once for each."""
    low90: float
    high90: float
    low95: float
    high95: float
    p: float
    """Two-sided, that the mean is 0: twice the share of draws on the other side of 0, or on it; never 0 itself."""
    covers: Covers
    """What would differ in another comparison, as far as the intervals know."""


def paired_values(first: Values, second: Values) -> dict[int, dict[str, float]]:
    """``first`` − ``second``, item by item, over the run seeds and items that both have."""
    return {
        seed: {item: value - second[seed][item] for item, value in items.items() if item in second[seed]}
        for seed, items in first.items()
        if seed in second
    }


def resample(values: Values, *, rng: random.Random, draws: int = DRAWS) -> Resampled | None:
    """The mean of ``values`` with its intervals; nothing where there is no value.

    Args:
        values: of differences, `paired_values`.
        rng: makes the draws; the order of run seeds and items changes nothing.
        draws: how many.
    """
    columns = {seed: dict(sorted(values[seed].items())) for seed in sorted(values) if values[seed]}
    if not columns:
        return None
    table = [np.array(list(items.values()), dtype=np.float64) for items in columns.values()]
    means = _draw_means(list(columns.values()), table, draws, np.random.default_rng(rng.getrandbits(128)))
    low95, low90, high90, high95 = np.quantile(means, [0.025, 0.05, 0.95, 0.975])
    beyond = min(np.count_nonzero(means <= _ROUNDING), np.count_nonzero(means >= -_ROUNDING))
    return Resampled(
        value=float(np.mean([column.mean() for column in table])),
        run_seeds=len(table),
        items=sum(column.size for column in table),
        low90=float(low90),
        high90=float(high90),
        low95=float(low95),
        high95=float(high95),
        p=min(1.0, 2 * (int(beyond) + 1) / (draws + 1)),
        covers="items and run seeds" if len(table) > 1 else "items",
    )


_ROUNDING = 1e-12
"""What sums of many values may be off by."""


def _draw_means(
    columns: Sequence[Mapping[str, float]], table: Sequence[Floats], draws: int, generator: np.random.Generator
) -> Floats:
    """The mean of each draw: the whole's, moved by what the drawn run seeds and the drawn items differ."""
    seeds, of_seeds = len(table), np.array([column.mean() for column in table])
    picked = generator.integers(0, seeds, size=(draws, seeds))
    if _in_common(columns):
        names = sorted(set().union(*columns))
        values = np.array([[column.get(name, np.nan) for column in columns] for name in names])
        drawn = np.take_along_axis(_draw_items(values, draws, generator), picked, axis=1)
    else:
        # A run seed that is drawn twice has its items drawn anew.
        each = [_draw_items(column[:, np.newaxis], draws * seeds, generator).reshape(draws, seeds) for column in table]
        drawn = np.take_along_axis(np.stack(each), picked[np.newaxis], axis=0)[0]
    between = of_seeds[picked] - of_seeds.mean()
    # The spread of k drawn values is (k - 1) / k of what it is estimated to be.
    widened = math.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
    moved = (widened * between + (drawn - of_seeds[picked])).mean(axis=1)
    means: Floats = of_seeds.mean() + moved * _tails(table, draws, generator)
    return means


def _in_common(columns: Sequence[Mapping[str, float]]) -> bool:
    """Whether run seeds were asked the same items: most of them, for an answer may be missing here or there."""
    return 2 * len(set.intersection(*map(set, columns))) >= min(map(len, columns))


def _tails(table: Sequence[Floats], draws: int, generator: np.random.Generator) -> Floats | float:
    """What makes draws of a normal distribution those of Student's t (Welch 1947, Satterthwaite 1946).

    Of the two variances that are added up, that between k run seeds has k − 1 degrees of freedom, that of items many.
    """
    between = float(np.var([column.mean() for column in table], ddof=1)) if len(table) > 1 else 0.0
    if not between:
        return 1.0
    of_items = fmean(float(column.var(ddof=1)) / column.size if column.size > 1 else 0.0 for column in table)
    degrees = (len(table) - 1) * (1 + of_items / between) ** 2
    factors: Floats = np.sqrt(degrees / generator.chisquare(degrees, draws))
    return factors


def _draw_items(values: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """Means of the columns of ``values`` over items (rows) drawn with replacement, a row a draw; NaN has no value.

    Items of equal values are one kind, and what is drawn is how many of each kind: the same, and faster.
    """
    kinds, sizes = np.unique(values, axis=0, return_counts=True)
    counts = generator.multinomial(values.shape[0], sizes / values.shape[0], size=draws)
    drawn = counts @ ~np.isnan(kinds)
    sums = counts @ np.nan_to_num(kinds)
    # A draw without any item of a column says nothing about it.
    means: Floats = np.where(drawn > 0, sums / np.maximum(drawn, 1), np.nanmean(values, axis=0))
    return means
