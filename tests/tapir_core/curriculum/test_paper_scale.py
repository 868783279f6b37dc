"""A round at the paper's scale on fakes: 52,000 instructions, 70,000 examples asked for, alpha 0.3, no server.

The verdicts and the gates are drawn by lot; all else is the curriculum's own: sizes, quotas, waves, draws.
"""

import random
from collections import Counter
from dataclasses import dataclass
from functools import cache

import polars as pl
import pytest

from tapir_core.config.curriculum import CurriculumConfig, Threshold
from tapir_core.curriculum import (
    RoundSize,
    draw_easy,
    draw_hard,
    lacking,
    plan_wave,
    quotas,
    reach_of,
    select_seeds,
    size_round,
    supply_of,
)
from tapir_core.randomness import derive_rng
from tapir_core.stages import DIFFICULTY
from tapir_core.task_types import TARGET_SHARES, TASK_TYPES
from tests.builders import make_expansion

POOL, ASKED, ALPHA = 52_000, 70_000, 0.3
SETTINGS = CurriculumConfig().expansion
NAMES = (*(name for name in TASK_TYPES if name != "Math"), "Math")
"""By frequency in the pool: one of the two that a mixture has most of is the rarest."""


@dataclass
class Round:
    """What came of a round."""

    size: RoundSize
    seeds: pl.DataFrame
    hard: pl.DataFrame
    easy: pl.DataFrame
    asked: int
    """New instructions that were asked for."""

    @property
    def takeable(self) -> int:
        """Seeds that the quotas can take."""
        wanted, supply = quotas(self.size.hard, TARGET_SHARES), supply_of(self.seeds)
        return sum(min(count, supply.get(name, 0)) for name, count in wanted.items())

    @property
    def trained_seeds(self) -> int:
        return self.hard.filter(origin="seed").height


def make_pool(hard_share: float, rng: random.Random) -> pl.DataFrame:
    """The scored pool: task types of very unequal frequency, of which some are harder than others."""
    weights = [1 / place for place in range(1, len(NAMES) + 1)]
    rows = []
    for number, name in enumerate(rng.choices(NAMES, weights, k=POOL)):
        hard = rng.random() < hard_share * rng.choice((0.9, 1.0, 1.1))
        teacher, mfd = 9.0, 3.0 if hard else 1.0
        rows.append((f"p{number:05d}", name, teacher - mfd, teacher, mfd, 2, 0.0))
    return pl.DataFrame(rows, schema=DIFFICULTY.columns, orient="row")


@cache
def run_round(hard_share: float, acceptance: float, seed: int = 1) -> Round:
    """A first round; S_0 was trained on the whole pool, which makes no difference to it."""
    rng = derive_rng(seed, "pool")
    parts = select_seeds(Threshold(), make_pool(hard_share, rng), rng)
    size = size_round(ASKED, ALPHA, reach_of(parts.easy, TARGET_SHARES))
    wanted, new, asked = quotas(size.hard, TARGET_SHARES), dict[str, str](), 0
    for wave in range(1, SETTINGS.max_waves + 1):
        lacks = lacking(wanted, Counter(supply_of(parts.seeds)) + Counter(new.values()))
        requests = plan_wave(
            parts.seeds, lacks, round_number=1, wave=wave, oversample=SETTINGS.oversample, rng=derive_rng(seed, wave)
        )
        asked += len(requests)
        new |= {f"n{wave}-{at:05d}": each.task_type for at, each in enumerate(requests) if rng.random() < acceptance}
    hard = draw_hard(parts.seeds, make_expansion(new), size.hard, TARGET_SHARES, derive_rng(seed, "hard")).rows
    easy = draw_easy(parts.easy, size.easy, TARGET_SHARES, derive_rng(seed, "easy")).rows
    return Round(size, parts.seeds, hard, easy, asked)


@pytest.mark.parametrize("acceptance", [0.6, 0.85, 0.95])
@pytest.mark.parametrize("hard_share", [0.21, 0.7])
def test_nearly_all_measured_seeds_that_the_quotas_can_take_are_trained_on(
    hard_share: float, acceptance: float
) -> None:
    found = run_round(hard_share, acceptance)
    assert found.takeable > 1000
    assert found.trained_seeds >= 0.95 * found.takeable


@pytest.mark.parametrize("acceptance", [0.6, 0.95])
@pytest.mark.parametrize("hard_share", [0.21, 0.7])
def test_alpha_is_that_of_the_mixture_and_n_is_what_the_easy_rows_reach(hard_share: float, acceptance: float) -> None:
    found = run_round(hard_share, acceptance)
    assert abs(found.size.hard - ALPHA * found.size.examples) <= 1
    assert found.easy.height == found.size.easy < ASKED * (1 - ALPHA)
    # What the hard part lacks is what the last wave's gates took.
    lacks = (1 - acceptance) ** SETTINGS.max_waves * (found.size.hard - found.takeable)
    assert found.size.hard - found.hard.height == pytest.approx(lacks, rel=0.3, abs=20)


def test_no_more_new_instructions_are_asked_for_than_lack_and_the_gates_take() -> None:
    found = run_round(0.21, 0.85)
    lacked = found.size.hard - found.takeable
    assert found.asked <= lacked / 0.85 * 1.02
    assert found.hard.filter(origin="expansion").height <= lacked
