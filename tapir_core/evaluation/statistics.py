"""Figures of benchmarks and of several trainings: never without n, and an interval or the reason why there is none.

Pure. Estimates are those of judges (`tapir_core.judging.estimates`: 95 %, Student's t, Wilson's for shares); here is
what benchmarks and the held-out set need beside them. Where the ends of a scale are known, an interval stays between
them. It is Wilson's where every item lies at one of the ends: such a mean is a share, and its interval has a width also
where all items lie at the same end, where Student's t has none. None among values marks one that failed: it is left out
and counted, never averaged in as a number. Where more than a stated share failed there is no figure at all, since
failures are no random sample.

Of several trainings of one recipe each has a run seed, and a value for each held-out item. The hierarchical bootstrap
(`resample`) draws run seeds with replacement, and items with replacement within them; where run seeds have their items
in common, one draw of items holds for all. Few run seeds show their own spread badly: the draws are spread as Student's
t is, with the degrees of freedom of Welch and Satterthwaite. The intervals are percentiles of the draws, and the
p-value is that of the same draws, so that the two agree. Every run seed has the same weight, however many its items.

With one run seed nothing says how much another would differ. What its own run, made again, would differ by is known of
one student (`RERUN_SD`), and the interval has it beside the items.

Limits: a ratio and a mean over clusters have the interval of their linearisation (that of large samples); items are
taken as independent. Another student, or longer rounds, may differ more or less when made again; of few items, such as
those of a task type, each student differs more. With several run seeds, the spread of items is in the spread between
run seeds too, so that intervals are rather too wide where run seeds differ little (docs/compare.md has the shares that
were seen).
"""

import math
import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist, fmean
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from tapir_core.judging.estimates import Estimate, estimate_mean, estimate_ratio, estimate_share, share_interval

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

_Floats = NDArray[np.float64]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its interval and with what is not in it."""

    estimate: Estimate
    """Its ``n`` counts what is in the figure; its ``why`` says why there is no figure, or no interval."""
    n_failed: int
    """How many values failed and are not in ``n``."""
    note: str = ""
    """What else is to be said of it."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Two students on the same items: the first one's mean minus the second one's, in the unit of the values."""

    difference: Estimate
    p_value: float | None
    """Two-sided, of the hypothesis that it is a toss-up for each item whose value is whose; None without a figure."""
    n_failed: int
    """Items without a value of both."""


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
    kept, failed, why = _without_failed(values, max_failed_share, unit)
    if why:
        return Figure(Estimate(None, len(kept), why=why), failed)
    groups: dict[Hashable, list[float]] = {}
    for cluster, value in zip(range(len(values)) if clusters is None else clusters, values, strict=True):
        if value is not None:
            groups.setdefault(cluster, []).append(value)
    sums = [(math.fsum(group), len(group)) for group in groups.values()]
    mean = estimate_mean(kept) if clusters is None else estimate_ratio(sums)
    return Figure(replace(_on_scale(mean, sums, scale), n=len(kept)), failed)


def share_figure(marks: Sequence[bool | None]) -> Figure:
    """Share (0-1) of the answers that are right, with Wilson's interval; None marks one that failed."""
    kept, failed, why = _without_failed(marks, MAX_FAILED_SHARE, "answers")
    share = Estimate(None, len(kept), why=why) if why else estimate_share(sum(kept), len(kept))
    return Figure(share, failed)


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
    kept, failed, why = _without_failed(pairs, max_failed_share, unit)
    ratio = Estimate(None, len(kept), why=why) if why else _on_scale(estimate_ratio(kept), kept, scale)
    return Figure(ratio, failed)


def in_percent(share: Figure) -> Figure:
    """A figure of shares (0-1) in per cent."""
    found = share.estimate
    value, low, high, stderr = (
        None if each is None else 100 * each for each in (found.value, found.low, found.high, found.stderr)
    )
    return replace(share, estimate=replace(found, value=value, low=low, high=high, stderr=stderr))


def mean_value(values: Sequence[float | None]) -> float | None:
    """The mean; None where one failed."""
    kept = [value for value in values if value is not None]
    return math.fsum(kept) / len(kept) if kept and len(kept) == len(values) else None


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
        n = effective_size(weight for _, weight in items)
        span = highest - lowest
        low, high = (lowest + span * end for end in share_interval((found.value - lowest) / span, n))
    else:
        low, high = max(lowest, found.low), min(highest, found.high)
    # Ratings may leave a scale that is not checked, and the interval holds its value nevertheless.
    return replace(found, low=min(low, found.value), high=max(high, found.value))


def _sign_flip_p(differences: _Floats, rng: random.Random) -> float:
    """Share of draws of signs whose sum is as far from 0; the sum as it is counts as one draw, so it is never 0."""
    draws = np.random.default_rng(rng.getrandbits(128))
    seen = abs(math.fsum(differences))
    as_far = 1
    for _ in range(_SIGN_DRAWS // _DRAWS_AT_ONCE):
        signs = draws.integers(0, 2, size=(_DRAWS_AT_ONCE, differences.size)) * 2 - 1
        as_far += int(np.count_nonzero(np.abs(signs @ differences) >= seen * (1 - 1e-12)))
    return as_far / (_SIGN_DRAWS + 1)


def _without_failed(values: Sequence[_T | None], max_share: float, unit: str) -> tuple[list[_T], int, str]:
    """What did not fail, how many did, and why there is no figure where that were too many."""
    kept, n = [value for value in values if value is not None], len(values)
    failed = n - len(kept)
    if not failed or failed / n <= max_share:
        return kept, failed, ""
    return kept, failed, f"{failed} of {n} {unit} failed ({failed / n:.1%}), more than the {max_share:.1%} allowed"


DRAWS = 10_000
"""Draws of a bootstrap."""

RERUN_SD = 0.0207
"""Standard deviation of a trained student's accuracy (0-1) when its run is made again with the same run seed.

Of the last students of eight runs of an earlier comparison, of rounds of 64 steps, made on two machines, on the same
600 instructions (docs/LOG.md, 2026-11-21): the two differ by 2.9 points (root mean square), which is √2 of it.
"""

Covers = Literal["items", "items and reruns", "items and run seeds"]
"""What would differ in another comparison, as far as an interval knows."""

_COVERS: dict[Covers, str] = {
    "items": "the choice of instructions",
    "items and reruns": "the choice of instructions and what a rerun changes "
    f"(SD {100 * RERUN_SD:.1f} points, measured on the quickstart student)",
    "items and run seeds": "the choice of instructions and that of the run seed",
}

Values = Mapping[int, Mapping[str, float]]
"""Run seed → item → value."""


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

    @property
    def in_words(self) -> str:
        """What the intervals cover, as a part of a sentence."""
        return covers_in_words(self.covers)


def paired_values(first: Values, second: Values) -> dict[int, dict[str, float]]:
    """``first`` − ``second``, item by item, over the run seeds and items that both have."""
    return {
        seed: {item: value - second[seed][item] for item, value in items.items() if item in second[seed]}
        for seed, items in first.items()
        if seed in second
    }


def effective_size(weights: Iterable[float]) -> float:
    """How many items of equal weights would say as much as these (Kish)."""
    given = list(weights)
    return math.fsum(given) ** 2 / math.fsum(weight**2 for weight in given)


def at_weights(values: Values, weights: Values) -> dict[int, dict[str, float]]:
    """Values whose mean with each run seed is the weighted one, and whose spread is that of its linearisation.

    ``weights`` has those of each run seed and item.
    """
    found = {}
    for seed, items in values.items():
        whole = math.fsum(weights[seed][item] for item in items)
        mean = math.fsum(weights[seed][item] * value for item, value in items.items()) / whole if whole else 0.0
        scale = len(items) / whole if whole else 0.0
        found[seed] = {item: mean + (value - mean) * weights[seed][item] * scale for item, value in items.items()}
    return found


def covers_in_words(covers: Covers) -> str:
    """The same as a part of a sentence."""
    return _COVERS[covers]


def rerun_sd(students: int) -> float:
    """The `RERUN_SD` of a sum or difference of this many trained students (0-1)."""
    return RERUN_SD * math.sqrt(students)


def resample(values: Values, *, rng: random.Random, draws: int = DRAWS, rerun: float = 0.0) -> Resampled | None:
    """The mean of ``values`` with its intervals; nothing where there is no value.

    Args:
        values: of differences, `paired_values`.
        rng: makes the draws; the order of run seeds and items changes nothing.
        draws: how many.
        rerun: standard deviation of the mean when the run is made again, in the unit of the values (`rerun_sd`). It
            counts with one run seed; several show it themselves.
    """
    columns = {seed: dict(sorted(values[seed].items())) for seed in sorted(values) if values[seed]}
    if not columns:
        return None
    table = [np.array(list(items.values()), dtype=np.float64) for items in columns.values()]
    means = _draw_means(list(columns.values()), table, draws, np.random.default_rng(rng.getrandbits(128)))
    alone = len(table) == 1 and rerun > 0
    if alone:
        means = _with_rerun(means, float(table[0].mean()), rerun)
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
        covers="items and run seeds" if len(table) > 1 else "items and reruns" if alone else "items",
    )


_ROUNDING = 1e-12
"""What sums of many values may be off by."""


def _draw_means(
    columns: Sequence[Mapping[str, float]], table: Sequence[_Floats], draws: int, generator: np.random.Generator
) -> _Floats:
    """The mean of each draw: the whole's, moved by what the drawn run seeds and the drawn items differ."""
    seeds, of_seeds = len(table), np.array([column.mean() for column in table])
    picked = generator.integers(0, seeds, size=(draws, seeds))
    # Most items, for an answer may be missing here or there.
    in_common = 2 * len(set.intersection(*map(set, columns))) >= min(map(len, columns))
    if in_common:
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
    means: _Floats = of_seeds.mean() + moved * _tails(table, draws, generator)
    return means


def _with_rerun(means: _Floats, value: float, sd: float) -> _Floats:
    """The draws with what a rerun changes: at every level the two distances from ``value`` add up in squares.

    No random numbers are added, so that an interval is never narrower than that of the items alone.
    """
    levels = _normal_levels(means.size)
    wider: _Floats = value + np.copysign(np.hypot(np.sort(means) - value, sd * levels), levels)
    return wider


@cache
def _normal_levels(draws: int) -> _Floats:
    """Where so many sorted draws of the standard normal distribution lie."""
    return np.array([NormalDist().inv_cdf((place + 0.5) / draws) for place in range(draws)])


def _tails(table: Sequence[_Floats], draws: int, generator: np.random.Generator) -> _Floats | float:
    """What makes draws of a normal distribution those of Student's t (Welch 1947, Satterthwaite 1946).

    Of the two variances that are added up, that between k run seeds has k − 1 degrees of freedom, that of items many.
    """
    between = float(np.var([column.mean() for column in table], ddof=1)) if len(table) > 1 else 0.0
    if not between:
        return 1.0
    of_items = fmean(float(column.var(ddof=1)) / column.size if column.size > 1 else 0.0 for column in table)
    degrees = (len(table) - 1) * (1 + of_items / between) ** 2
    return np.sqrt(degrees / generator.chisquare(degrees, draws))


def _draw_items(values: _Floats, draws: int, generator: np.random.Generator) -> _Floats:
    """Means of the columns of ``values`` over items (rows) drawn with replacement, a row a draw; NaN has no value.

    Items of equal values are one kind, and what is drawn is how many of each kind: the same, and faster.
    """
    kinds, sizes = np.unique(values, axis=0, return_counts=True)
    counts = generator.multinomial(values.shape[0], sizes / values.shape[0], size=draws)
    drawn = counts @ ~np.isnan(kinds)
    sums = counts @ np.nan_to_num(kinds)
    # A draw without any item of a column says nothing about it.
    return np.where(drawn > 0, sums / np.maximum(drawn, 1), np.nanmean(values, axis=0))
