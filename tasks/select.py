"""Stage `select`: D_S ← {x : MFD(x) > δ}, or the hardest share."""

from tapir_core.curriculum import select_seeds
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks._task import stage_task
from tasks.outcomes import Worked

__all__ = ["select"]


@stage_task("select")
def select(run: RunFolder, at: StageAt) -> Worked:
    """The seeds of the round, and δ as it was used."""
    rng = derive_rng(run.config.run.seed, at.number, "select")
    settings = run.config.round(at.number)
    chosen = select_seeds(run.rows(StageAt("difficulty", at.number)), settings.selection, rng)
    return Worked(chosen.seeds, {"delta": chosen.delta, "easy": chosen.easy.height})
