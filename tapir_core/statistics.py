"""Estimates with intervals, of one student or of several trainings. Pure.

An estimate is a mean, a ratio, a difference, a share, a rank correlation or Cohen's kappa, with its 95 % interval. What
cannot be defined is a value with a reason, never NaN. None among values marks one that failed: it is left out and
counted, never averaged in as a number. Where more than a stated share failed there is no figure at all, since failures
are no random sample. Where the ends of a scale are known, an interval stays between them. It is Wilson's where every
item lies at one of the ends: such a mean is a share, and its interval has a width also where all items lie at the same
end, where Student's t has none.

Of several trainings of one recipe each has a run seed, and a value for each held-out item. The hierarchical bootstrap
(`resample`) draws run seeds with replacement, and items with replacement within them; where run seeds have their items
in common, one draw of items holds for all. Few run seeds show their own spread badly: the draws are spread as Student's
t is, with the degrees of freedom of Welch and Satterthwaite. The intervals are percentiles of the draws, and the
p-value is that of the same draws, so that the two agree. Every run seed has the same weight, however many its items.

With one run seed nothing says how much another would differ. What its own run, made again, would differ by is known of
one student (`RERUN_SD`), and the interval has it beside the items.

Limits: intervals take the rows as independent and, but for means (Student's t) and shares, are those of large samples
(Spearman's is Bonett and Wright's, those of ratios and of means over clusters are linearised); below ``FEWEST_ROWS``
rows there is none for all but shares. Ties take their mean rank. Another student, or longer rounds, may differ more or
less when made again; of few items, such as those of a task type, each student differs more. With several run seeds, the
spread of items is in the spread between run seeds too, so that intervals are rather too wide where run seeds differ
little (docs/compare.md has the shares that were seen). Wilson's interval, and kappa with its variance (Fleiss, Cohen
and Everitt), are statsmodels', which is imported where it is used, since that takes a second that no short command
should wait.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import NormalDist, fmean
from typing import Literal, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

FEWEST_ROWS = 4
"""Rows that an interval needs; Spearman's has none below."""

MAX_FAILED_SHARE = 0.05
"""Share of failures (0-1) above which there is no figure, where the caller states none."""

Scale = tuple[float, float]
"""The lowest and the highest value that an item can have."""

SHARE, PERCENT = (0.0, 1.0), (0.0, 100.0)

DRAWS = 10_000
"""Draws of a bootstrap."""

_Z = NormalDist().inv_cdf(0.975)
_NO_SPREAD = 1e-7
_NOTHING = "nothing to measure"

_Floats = NDArray[np.float64]

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval, and with what is not in it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    """How many rows are in the figure."""
    failed: int = 0
    """How many rows failed and are not in ``n``."""
    note: str = ""
    """Why there is no value or, where there is one, no interval; else what is to be said of the figure."""
    stderr: float | None = field(default=None, kw_only=True)
    p: float | None = field(default=None, kw_only=True)
    """Two-sided, that there is no difference; of differences that a test was made of."""

    def span(self, cell: Callable[[float], str]) -> str:
        """The ends of the interval, as ``cell`` shows one: 35.2 to 47.5; empty where there is none."""
        return "" if self.low is None or self.high is None else f"{cell(self.low)} to {cell(self.high)}"

    def with_note(self, text: str) -> "Estimate":
        """The same with ``text`` said of its value first; unchanged where it has none."""
        return self if self.value is None else replace(self, note="; ".join(filter(None, (text, self.note))))


def grouped(pairs: Iterable[tuple[_K, _T]]) -> dict[_K, list[_T]]:
    """Key → its values; both in the order in which they come."""
    found: dict[_K, list[_T]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def estimate_mean(
    values: Sequence[float | None],
    *,
    clusters: Sequence[Hashable] | None = None,
    scale: Scale | None = None,
    max_failed_share: float = MAX_FAILED_SHARE,
    unit: str = "judgments",
) -> Estimate:
    """The mean of the values that did not fail, in their unit.

    Args:
        values: one an item, None where it failed.
        clusters: what each value belongs to where several are of one item (both turns of a question): the mean stays
            that of all values, the interval takes clusters as independent and not values.
        scale: where given, the interval stays on it; value and standard error do not change.
        max_failed_share: above this share of None (0-1) there is no figure.
        unit: what is counted, where it says how many failed.
    """

    def of(kept: Sequence[tuple[Hashable, float]]) -> Estimate:
        sums = [
            (math.fsum(group), len(group))
            for group in (([value] for _, value in kept) if clusters is None else grouped(kept).values())
        ]
        return _on_scale(_mean([value for _, value in kept]) if clusters is None else _ratio(sums), sums, scale)

    pairs = [
        None if value is None else (cluster, value)
        for cluster, value in zip(range(len(values)) if clusters is None else clusters, values, strict=True)
    ]
    return _of_kept(pairs, of, max_failed_share, unit)


def estimate_ratio(
    pairs: Sequence[tuple[float, float] | None],
    *,
    scale: Scale | None = None,
    max_failed_share: float = MAX_FAILED_SHARE,
    unit: str = "judgments",
) -> Estimate:
    """Sum of the first of each pair ÷ sum of the second, over the pairs that did not fail.

    Its interval is that of the linearised ratio. ``unit`` names the pairs; ``scale`` is that of the ratio of a pair, as
    `estimate_mean` takes it.
    """
    return _of_kept(pairs, lambda kept: _on_scale(_ratio(kept), kept, scale), max_failed_share, unit)


def estimate_marks(marks: Sequence[bool | None]) -> Estimate:
    """Share (0-1) of the answers that are right, with Wilson's interval; None marks one that failed."""
    return _of_kept(marks, lambda kept: estimate_share(sum(kept), len(kept)), MAX_FAILED_SHARE, "answers")


def estimate_share(hits: int, n: int) -> Estimate:
    """``hits`` of ``n`` as a share (0-1)."""
    if not n:
        return Estimate(None, note=_NOTHING)
    share = hits / n
    return Estimate(share, *share_interval(share, n), n, stderr=math.sqrt(share * (1 - share) / n))


def estimate_difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of ``first`` minus mean of ``second``, two sets of different items, with Welch's interval.

    No interval where one of the two is too small to show its spread.
    """
    n, one, other = len(first) + len(second), _mean(first), _mean(second)
    if one.value is None or other.value is None:
        return Estimate(None, n=n, note="one of the two has no items")
    difference = one.value - other.value
    if one.stderr is None or other.stderr is None:
        return Estimate(difference, n=n, note=f"{one.n} items against {other.n} only")
    of_one, of_other = one.stderr**2, other.stderr**2
    spread = of_one**2 / (one.n - 1) + of_other**2 / (other.n - 1)
    stderr = math.sqrt(of_one + of_other)
    margin = student_t((of_one + of_other) ** 2 / spread) * stderr if spread else 0.0
    return Estimate(difference, difference - margin, difference + margin, n, stderr=stderr)


def estimate_spearman(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Spearman's rank correlation of two columns of equal length, -1 to 1."""
    n = len(first)
    if n < 2:
        return Estimate(None, n=n, note=_few(n) if n else _NOTHING)
    if len(set(first)) == 1 or len(set(second)) == 1:
        return Estimate(None, n=n, note="one of the two never changes")
    one, other = (pl.Series(each, dtype=pl.Float64) for each in (first, second))
    value = round(pl.select(pl.corr(one, other, method="spearman")).item(), 12)
    if n < FEWEST_ROWS:
        return Estimate(value, n=n, note=_few(n))
    if abs(value) == 1.0:
        return Estimate(
            value, n=n, note="both rank the rows alike" if value > 0 else "each ranks the rows the other way"
        )
    centre, margin = math.atanh(value), _Z * math.sqrt((1 + value**2 / 2) / (n - 3))
    return Estimate(value, math.tanh(centre - margin), math.tanh(centre + margin), n)


def estimate_kappa(first: Sequence[str], second: Sequence[str]) -> Estimate:
    """Cohen's kappa of two columns of classes: agreement beyond chance; 1 is full agreement, 0 that of chance."""
    from statsmodels.stats.inter_rater import cohens_kappa

    n, classes = len(first), list(dict.fromkeys([*first, *second]))
    if len(classes) < 2:
        return Estimate(None, n=n, note="every row has the same class" if n else _NOTHING)
    counts = Counter(zip(first, second, strict=True))
    # A variance of 0 may come out a rounding error below it, and the largest kappa there may be, unused, as 0 ÷ 0.
    with np.errstate(invalid="ignore"):
        found = cohens_kappa(np.array([[counts[one, other] for other in classes] for one in classes]))
    kappa, stderr = float(found.kappa), float(found.std_kappa)
    if n < FEWEST_ROWS:
        return Estimate(kappa, n=n, note=_few(n))
    if not stderr > _NO_SPREAD:
        return Estimate(kappa, n=n, note="the rows leave no spread to take an interval from")
    return Estimate(kappa, max(-1.0, kappa - _Z * stderr), min(1.0, kappa + _Z * stderr), n, stderr=stderr)


def share_interval(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a ``share`` (0-1) of ``n`` independent rows, at least one; within 0 and 1."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(share * n, n, method="wilson")
    # At 0 and 1 an end is the share itself but for rounding.
    return min(share, max(0.0, float(low))), max(share, min(1.0, float(high)))


def student_t(degrees: float) -> float:
    """The 97.5 % point of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def in_percent(share: Estimate) -> Estimate:
    """A share (0-1) in per cent."""
    value, low, high, stderr = (
        None if each is None else 100 * each for each in (share.value, share.low, share.high, share.stderr)
    )
    return replace(share, value=value, low=low, high=high, stderr=stderr)


def mean_value(values: Sequence[float | None]) -> float | None:
    """The mean; None where one failed."""
    kept = [value for value in values if value is not None]
    return math.fsum(kept) / len(kept) if kept and len(kept) == len(values) else None


def compare_paired(
    first: Mapping[str, float | None],
    second: Mapping[str, float | None],
    *,
    max_failed_share: float = MAX_FAILED_SHARE,
    unit: str = "judgments",
) -> Estimate:
    """The mean of ``first`` minus that of ``second`` on the same items, in the unit of the values.

    Interval and p-value come from one paired t-test, so that the two agree. Where all differences are equal and not 0,
    there is no spread and neither is given. An item that is missing or failed on one side counts as failed. Average
    several values of one item (both turns of a question) first.

    Args:
        first: item → value of the first student.
        second: item → value of the second student.
        max_failed_share: above this share of failed items (0-1) there is no figure.
        unit: what is counted, where it says how many failed.
    """
    from scipy.special import stdtr

    pairs = [(first.get(item), second.get(item)) for item in sorted({*first, *second})]
    differences = [None if one is None or other is None else one - other for one, other in pairs]
    found = estimate_mean(differences, max_failed_share=max_failed_share, unit=unit)
    if found.value is None or found.stderr is None:
        return found
    if found.stderr <= _NO_SPREAD:
        same = abs(found.value) <= _NO_SPREAD
        return (
            replace(found, p=1.0) if same else replace(found, low=None, high=None, note=f"all {found.n} differ alike")
        )
    return replace(found, p=float(2 * stdtr(found.n - 1, -abs(found.value / found.stderr))))


def _of_kept(
    values: Sequence[_T | None], estimate: Callable[[Sequence[_T]], Estimate], max_share: float, unit: str
) -> Estimate:
    """The estimate of what did not fail; none where more than ``max_share`` failed."""
    kept, n = [value for value in values if value is not None], len(values)
    failed = n - len(kept)
    if failed and failed / n > max_share:
        return Estimate(
            None,
            n=len(kept),
            failed=failed,
            note=f"{failed} of {n} {unit} failed ({failed / n:.1%}), more than the {max_share:.1%} allowed",
        )
    return replace(estimate(kept), n=len(kept), failed=failed)


def _mean(values: Sequence[float]) -> Estimate:
    n = len(values)
    if not n:
        return Estimate(None, note=_NOTHING)
    mean = math.fsum(values) / n
    if n < FEWEST_ROWS:
        return Estimate(mean, n=n, note=_few(n))
    stderr = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    margin = student_t(n - 1) * stderr
    return Estimate(mean, mean - margin, mean + margin, n, stderr=stderr)


def _ratio(pairs: Sequence[tuple[float, float]]) -> Estimate:
    n, whole = len(pairs), math.fsum(bottom for _, bottom in pairs)
    if not n or not whole:
        return Estimate(None, n=n, note="a ratio to 0" if n else _NOTHING)
    ratio = math.fsum(top for top, _ in pairs) / whole
    # Their mean is the ratio but for rounding.
    return replace(_mean([ratio + (top - ratio * bottom) * n / whole for top, bottom in pairs]), value=ratio)


def _few(n: int) -> str:
    return f"{n} row{'s' if n > 1 else ''} only"


def _on_scale(found: Estimate, items: Sequence[tuple[float, float]], scale: Scale | None) -> Estimate:
    """With an interval between the ends of the scale; ``items`` are the sum and the weight of each."""
    if scale is None or found.value is None or found.low is None or found.high is None:
        return found
    lowest, highest = scale
    if all(top in (lowest * weight, highest * weight) for top, weight in items):
        span = highest - lowest
        share, n = (found.value - lowest) / span, effective_size(weight for _, weight in items)
        low, high = (lowest + span * end for end in share_interval(share, n))
    else:
        low, high = max(lowest, found.low), min(highest, found.high)
    # Ratings may leave a scale that is not checked, and the interval holds its value nevertheless.
    return replace(found, low=min(low, found.value), high=max(high, found.value))


RERUN_SD = 0.0207
"""Standard deviation of a trained student's accuracy (0-1) when its run is made again with the same run seed.

Of the last students of eight runs of an earlier comparison, of rounds of 64 steps, made on two machines, on the same
600 instructions (docs/LOG.md, 2026-11-21): the two differ by 2.9 points (root mean square), which is √2 of it.
"""

Covers = Literal["items", "items and reruns", "items and run seeds"]
"""What would differ in another comparison, as far as an interval knows."""

COVERS: dict[Covers, str] = {
    "items": "the choice of instructions",
    "items and reruns": "the choice of instructions and what a rerun changes "
    f"(SD {100 * RERUN_SD:.1f} points, measured on the quickstart student)",
    "items and run seeds": "the choice of instructions and that of the run seed",
}

Values = Mapping[int, Mapping[str, float]]
"""Run seed → item → value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled(Estimate):
    """A mean over run seeds and items, in the unit of its values, with a 90 % interval too.

    ``n`` counts the items of all run seeds together: an item that several of them have counts once for each. ``p`` is
    twice the share of draws on the other side of 0, or on it; never 0 itself.
    """

    value: float
    low: float
    high: float
    p: float
    low90: float
    high90: float
    run_seeds: int
    covers: Covers
    """What the intervals cover, which `COVERS` has as a part of a sentence."""


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
    value, alone = float(np.mean([column.mean() for column in table])), len(table) == 1 and rerun > 0
    if alone:
        # At every level the two distances from the value add up in squares. No random numbers are added, so that an
        # interval is never narrower than that of the items alone.
        levels = _normal_levels(draws)
        means = value + np.copysign(np.hypot(np.sort(means) - value, rerun * levels), levels)
    low95, low90, high90, high95 = np.quantile(means, [0.025, 0.05, 0.95, 0.975])
    beyond = min(np.count_nonzero(means <= _ROUNDING), np.count_nonzero(means >= -_ROUNDING))
    return Resampled(
        value=value,
        low=float(low95),
        high=float(high95),
        n=sum(column.size for column in table),
        p=min(1.0, 2 * (int(beyond) + 1) / (draws + 1)),
        low90=float(low90),
        high90=float(high90),
        run_seeds=len(table),
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
    # The run seeds have their items in common; most of them, for an answer may be missing here or there.
    if 2 * len(set.intersection(*map(set, columns))) >= min(map(len, columns)):
        values = np.array([[column.get(name, np.nan) for column in columns] for name in sorted(set().union(*columns))])
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
    # A draw without any item of a column says nothing about it.
    return np.where(drawn > 0, (counts @ np.nan_to_num(kinds)) / np.maximum(drawn, 1), np.nanmean(values, axis=0))
