"""Which instructions are seeds: those above a threshold, the hardest share, or a share drawn at random.

The threshold is the paper's rule. The hardest share is for weak students, of whose pool most lies above any fixed δ.
The random share knows no difficulty: it is what the other two are compared with.
"""

import math
import random
from collections.abc import Collection
from dataclasses import dataclass

import polars as pl

from tapir_core.config import HardShare, Threshold
from tapir_core.curriculum.balance import draw_rows
from tapir_core.curriculum.tables import SEEDS, in_order

__all__ = ["SeedSelection", "draw_seeds", "select_seeds"]


@dataclass(frozen=True, slots=True)
class SeedSelection:
    """The scored pool, or the whole of it where nothing is scored, in two: seeds D_S and the easy rest."""

    seeds: pl.DataFrame
    easy: pl.DataFrame
    delta: float | None
    """δ: the threshold, or the MFD of the last seed that the share let in (0 when it let in none); nothing for seeds
    drawn at random."""


def select_seeds(difficulty: pl.DataFrame, selection: Threshold | HardShare, rng: random.Random) -> SeedSelection:
    """Split the scored instructions; an instruction that is not in ``difficulty`` is in neither part."""
    scored = in_order(difficulty.select(SEEDS.names()))
    if isinstance(selection, HardShare):
        chosen = _hardest(scored, selection.share, rng)
        delta: float | None = float(min(scored["mfd"].gather(chosen).to_list(), default=0.0))
    else:
        chosen = [row for row, mfd in enumerate(scored["mfd"]) if mfd > selection.threshold]
        delta = selection.threshold
    return _split(scored, chosen, delta)


def draw_seeds(pool: pl.DataFrame, share: float, used: Collection[str], rng: random.Random) -> SeedSelection:
    """Draw ceil(q·n) of the pool's instructions at random, those in ``used`` when all others are drawn.

    ``pool`` has instruction_id and task_type; seeds and easy have no MFD.
    """
    rows = in_order(pool.select("instruction_id", "task_type", pl.lit(None, dtype=pl.Float64).alias("mfd")))
    last = [row for row, identity in enumerate(rows["instruction_id"]) if identity in used]
    return _split(rows, draw_rows(range(rows.height), _ceil_share(share, rows.height), rng, last), None)


def _split(rows: pl.DataFrame, chosen: list[int], delta: float | None) -> SeedSelection:
    is_seed = pl.int_range(rows.height, eager=True).is_in(chosen)
    return SeedSelection(rows.filter(is_seed), rows.filter(~is_seed), delta)


def _ceil_share(share: float, rows: int) -> int:
    return math.ceil(round(share * rows, 9))


def _hardest(scored: pl.DataFrame, share: float, rng: random.Random) -> list[int]:
    """Row numbers of the ceil(q·n) highest MFD above 0, ties broken by the generator."""
    wanted = _ceil_share(share, scored.height)
    rows = list(range(scored.height))
    rng.shuffle(rows)
    mfd = scored["mfd"].to_list()
    ranked = sorted(rows, key=lambda row: -mfd[row])
    return [row for row in ranked[:wanted] if mfd[row] > 0]
