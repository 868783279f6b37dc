"""Which scored instructions are seeds: those above a threshold, or the hardest share.

The threshold is the paper's rule. The share is for weak students, of whose pool most lies above any fixed δ.
"""

import math
import random
from dataclasses import dataclass

import polars as pl

from tapir_core.config import HardShare, Selection
from tapir_core.curriculum.tables import SEEDS, in_order

__all__ = ["SeedSelection", "select_seeds"]


@dataclass(frozen=True, slots=True)
class SeedSelection:
    """The scored pool in two: seeds D_S and the easy rest."""

    seeds: pl.DataFrame
    easy: pl.DataFrame
    delta: float
    """δ: the threshold, or the MFD of the last seed that the share let in (0 when it let in none)."""


def select_seeds(difficulty: pl.DataFrame, selection: Selection, rng: random.Random) -> SeedSelection:
    """Split the scored instructions; an instruction that is not in ``difficulty`` is in neither part."""
    scored = in_order(difficulty.select(SEEDS.names()))
    if isinstance(selection, HardShare):
        chosen = _hardest(scored, selection.share, rng)
        delta = float(min(scored["mfd"].gather(chosen).to_list(), default=0.0))
    else:
        chosen = [row for row, mfd in enumerate(scored["mfd"]) if mfd > selection.threshold]
        delta = selection.threshold
    is_seed = pl.int_range(scored.height, eager=True).is_in(chosen)
    return SeedSelection(scored.filter(is_seed), scored.filter(~is_seed), delta)


def _hardest(scored: pl.DataFrame, share: float, rng: random.Random) -> list[int]:
    """Row numbers of the ceil(q·n) highest MFD above 0, ties broken by the generator."""
    wanted = math.ceil(round(share * scored.height, 9))
    rows = list(range(scored.height))
    rng.shuffle(rows)
    mfd = scored["mfd"].to_list()
    ranked = sorted(rows, key=lambda row: -mfd[row])
    return [row for row in ranked[:wanted] if mfd[row] > 0]
