"""Stage `select`: D_S ← {x : MFD(x) > δ}, or the hardest share; or a share of the pool drawn at random."""

import polars as pl

from tapir_core.curriculum import select_seeds
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder
from tapir_core.stages import SELECT, StageAt
from tasks._task import stage_task
from tasks.inputs import round_pool, used_before
from tasks.outcomes import Worked


@stage_task(SELECT)
def select(run: RunFolder, at: StageAt) -> Worked:
    """The seeds of the round, and δ as it was used, if there was one."""
    rng = derive_rng(run.config.run.seed, at.number, "select")
    rule = run.config.round(at.number).selection
    used = () if rule.reads_difficulty else used_before(run, at.number)
    chosen = select_seeds(rule, candidates(run, at.number), rng, used)
    return Worked(chosen.seeds, chosen.counts)


def candidates(run: RunFolder, number: int) -> pl.DataFrame:
    """Seeds and easy part come from what is scored; where seeds are drawn at random from the pool, without an MFD."""
    judged = run.config.verdict_round(number)
    if judged is None:
        return round_pool(run, number).with_columns(mfd=pl.lit(None, pl.Float64))
    return run.rows(StageAt("difficulty", judged))
