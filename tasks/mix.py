"""Stage `mix`: mixture_r ← hard_r + (1 − α_r)·N from easy; for round 0 a sample of the pool."""

import polars as pl

from tapir_core.curriculum import Mixture, assemble, draw_basic, draw_easy, hard_count
from tapir_core.curriculum.tables import REFINEMENT
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder
from tapir_core.stages import MIX, StageAt
from tasks._task import stage_task
from tasks.inputs import mixture_shares, round_pool, used_before
from tasks.outcomes import Worked
from tasks.refine import hard_draw
from tasks.select import easy_rows

__all__ = ["mix"]


@stage_task(MIX)
def mix(run: RunFolder, at: StageAt) -> Worked:
    """The training set of the round, with what it lacks."""
    mixture = _mix_round(run, at.number) if at.number else _mix_basic(run)
    shortfall = {f"shortfall: {task_type}": float(count) for task_type, count in mixture.shortfall.items()}
    return Worked(mixture.rows, {**shortfall, "missing_examples": mixture.missing})


def _mix_basic(run: RunFolder) -> Mixture:
    pool, count, seed = round_pool(run, 0), run.config.basic_tuning.examples, run.config.run.seed
    drawn = draw_basic(pool, count, derive_rng(seed, 0, "mix"))
    return assemble([drawn], pool, pl.DataFrame(schema=REFINEMENT), count, derive_rng(seed, 0, "order"))


def _mix_round(run: RunFolder, number: int) -> Mixture:
    config = run.config
    settings, shares, seed = config.round(number), mixture_shares(run), config.run.seed
    count = settings.examples - hard_count(settings.examples, settings.alpha or 0.0)
    easy, used = easy_rows(run, number), used_before(run, number)
    draws = [hard_draw(run, number), draw_easy(easy, count, shares, derive_rng(seed, number, "easy"), used)]
    refinement = run.rows(StageAt("refine", number))
    examples = round_pool(run, number + 1)
    return assemble(draws, examples, refinement, settings.examples, derive_rng(seed, number, "order"))
