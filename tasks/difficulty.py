"""Stage `difficulty`: MFD(x) ← mean over orders of s_teacher − s_student."""

from tapir_core.curriculum import compute_difficulty
from tapir_core.judging import expected_orders
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks._task import Worked, stage_task
from tasks.inputs import round_pool

__all__ = ["difficulty"]


@stage_task("difficulty")
def difficulty(run: RunFolder, at: StageAt) -> Worked:
    """MFD of every instruction whose every order is scored; the others are in neither seeds nor easy."""
    pool = round_pool(run, at.number)
    verdicts = run.rows(StageAt("judge", at.number))
    rows = compute_difficulty(verdicts, pool.select("instruction_id", "task_type"), expected_orders(run.config.judge))
    return Worked(rows, {"pool": pool.height, "scored": rows.height, "unscored": pool.height - rows.height})
