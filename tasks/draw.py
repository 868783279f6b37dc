"""Stage `draw`: hard_r from D_S ∪ E_r, and the easy part, by the target shares, before anything is refined."""

import polars as pl

from tapir_core.curriculum import draw_easy, draw_hard, hard_count
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder
from tapir_core.stages import DRAW, EXPAND, SELECT, StageAt
from tasks._task import stage_task
from tasks.inputs import mixture_shares, used_before
from tasks.outcomes import Worked
from tasks.select import candidates

SHORTFALL = "shortfall: "
"""In the counts of what is drawn and of a mixture: before the task type that lacks rows."""


@stage_task(DRAW)
def draw(run: RunFolder, at: StageAt) -> Worked:
    """α_r·N of seeds and new instructions, the rest of what the selection left; with what the hard part lacks."""
    settings, shares, used = run.config.round(at.number), mixture_shares(run), used_before(run, at.number)
    rngs = {part: derive_rng(run.config.run.seed, at.number, part) for part in ("hard", "easy")}
    count = hard_count(settings.examples, settings.alpha or 0.0)
    seeds, new = run.rows(SELECT.at(at.round)), run.rows(EXPAND.at(at.round))
    hard = draw_hard(seeds, new, count, shares, rngs["hard"], used)
    left = candidates(run, at.number).join(seeds, on="instruction_id", how="anti")
    easy = draw_easy(left, settings.examples - count, shares, rngs["easy"], used)
    lacking = {**hard.shortfall, **easy.shortfall}
    return Worked(pl.concat([hard.rows, easy.rows]), {f"{SHORTFALL}{name}": float(n) for name, n in lacking.items()})
