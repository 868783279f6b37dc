"""Which instructions are seeds: those above a threshold, the hardest share, or a share drawn at random.

The threshold is the paper's rule. The hardest share is for weak students, of whose pool most lies above any fixed δ.
The random share knows no difficulty: it is what the other two are compared with. A rule of your own registers what it
chooses with `choose_rows.register`.
"""

import math
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import polars as pl

from tapir_core.config import HardShare, RandomShare, SelectionRule, Threshold, by_kind
from tapir_core.curriculum.balance import draw_rows
from tapir_core.curriculum.tables import SEEDS, in_order

__all__ = ["SeedCounts", "SeedSelection", "ceil_share", "choose_rows", "hardest", "select_seeds"]


@dataclass(frozen=True, slots=True)
class SeedCounts:
    """What the manifest of a round's seeds says of them, beside their rows."""

    easy: int
    """Candidates that are no seeds."""
    delta: float | None
    """δ as it was used: what a new instruction must be above to count as hard. Nothing without a difficulty."""

    def as_counts(self) -> dict[str, float]:
        """As a manifest has them."""
        return {"easy": self.easy} if self.delta is None else {"delta": self.delta, "easy": self.easy}

    @classmethod
    def of_manifest(cls, counts: Mapping[str, float]) -> "SeedCounts":
        """What `as_counts` wrote."""
        return cls(int(counts.get("easy", 0)), counts.get("delta"))


@dataclass(frozen=True, slots=True)
class SeedSelection:
    """The candidates in two: seeds D_S and the easy rest."""

    seeds: pl.DataFrame
    easy: pl.DataFrame
    delta: float | None

    @property
    def counts(self) -> SeedCounts:
        """For the manifest."""
        return SeedCounts(self.easy.height, self.delta)


def select_seeds(
    rule: SelectionRule, candidates: pl.DataFrame, rng: random.Random, used: Collection[str] = ()
) -> SeedSelection:
    """Split the candidates, columns ``SEEDS``: the scored instructions, or the whole pool without an MFD.

    Instructions in ``used`` are drawn at random when all others are drawn.
    """
    rows = in_order(candidates.select(SEEDS.names()))
    is_seed = pl.int_range(rows.height, eager=True).is_in(choose_rows(rule, rows, rng, used))
    seeds = rows.filter(is_seed)
    return SeedSelection(seeds, rows.filter(~is_seed), rule.delta(seeds["mfd"].to_list()))


@by_kind(SelectionRule)
def choose_rows(rule: SelectionRule, rows: pl.DataFrame, rng: random.Random, used: Collection[str]) -> list[int]:
    """Row numbers of the seeds among ``rows``, the candidates in order of their ids."""
    raise NotImplementedError


@choose_rows.register
def _(rule: Threshold, rows: pl.DataFrame, _rng: random.Random, _used: Collection[str]) -> list[int]:
    return [row for row, mfd in enumerate(rows["mfd"]) if mfd > rule.threshold]


@choose_rows.register
def _(rule: HardShare, rows: pl.DataFrame, rng: random.Random, _used: Collection[str]) -> list[int]:
    return hardest(rows["mfd"].to_list(), range(rows.height), rule.share, rng)


@choose_rows.register
def _(rule: RandomShare, rows: pl.DataFrame, rng: random.Random, used: Collection[str]) -> list[int]:
    last = [row for row, identity in enumerate(rows["instruction_id"]) if identity in used]
    return draw_rows(range(rows.height), ceil_share(rule.share, rows.height), rng, last)


def ceil_share(share: float, rows: int) -> int:
    """Rows of a share, rounded up; no rounding error adds one."""
    return math.ceil(round(share * rows, 9))


def hardest(mfd: list[float], among: Collection[int], share: float, rng: random.Random) -> list[int]:
    """Of the rows ``among``, the ceil(q·n) with the highest MFD above 0, ties broken by the generator."""
    rows = list(among)
    rng.shuffle(rows)
    ranked = sorted(rows, key=lambda row: -mfd[row])
    return [row for row in ranked[: ceil_share(share, len(rows))] if mfd[row] > 0]
