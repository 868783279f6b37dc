"""Stage `mix`: mixture_r ← hard_r + (1 − α_r)·N from easy; for round 0 a sample of the pool."""

import polars as pl

from tapir_core.curriculum import BalancedDraw, Mixture, assemble, draw_basic
from tapir_core.curriculum.tables import REFINEMENT
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder
from tapir_core.stages import DRAW, MIX, REFINE, StageAt, drawn_at
from tasks._task import stage_task
from tasks.draw import SHORTFALL
from tasks.inputs import round_pool
from tasks.outcomes import Worked


@stage_task(MIX)
def mix(run: RunFolder, at: StageAt) -> Worked:
    """The training set of the round, with what it lacks."""
    mixture = _mix_round(run, at) if at.number else _mix_basic(run)
    shortfall = {f"{SHORTFALL}{task_type}": float(count) for task_type, count in mixture.shortfall.items()}
    return Worked(mixture.rows, {**shortfall, "missing_examples": mixture.missing})


def _mix_basic(run: RunFolder) -> Mixture:
    pool, count, seed = round_pool(run, 0), run.config.basic_tuning.examples, run.config.run.seed
    drawn = draw_basic(pool, count, derive_rng(seed, 0, "mix"))
    return assemble([drawn], pool, pl.DataFrame(schema=REFINEMENT), count, derive_rng(seed, 0, "order"))


def _mix_round(run: RunFolder, at: StageAt) -> Mixture:
    counts, wanted = run.sealed(DRAW.at(at.round)).counts, run.config.round(at.number).examples
    lacking = {name.removeprefix(SHORTFALL): int(count) for name, count in counts.items() if name.startswith(SHORTFALL)}
    rows, refinement = run.rows(drawn_at(run.config, at)), run.rows(REFINE.at(at.round))
    rng = derive_rng(run.config.run.seed, at.number, "order")
    return assemble([BalancedDraw(rows, lacking)], round_pool(run, at.number + 1), refinement, wanted, rng)
