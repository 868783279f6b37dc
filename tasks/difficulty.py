"""Stage `difficulty`: MFD(x) ← mean over orders of s_teacher − s_student."""

from collections import Counter

import polars as pl

from tapir_core.curriculum import compute_difficulty
from tapir_core.errors import ConfigError
from tapir_core.judging import expected_orders
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks._task import Worked, stage_task
from tasks.inputs import round_pool

__all__ = ["check_scored", "difficulty"]


@stage_task("difficulty")
def difficulty(run: RunFolder, at: StageAt) -> Worked:
    """MFD of every instruction whose every order is scored; the others are in neither seeds nor easy.

    Raises:
        ConfigError: no instruction is scored.
    """
    pool = round_pool(run, at.number)
    verdicts = run.rows(StageAt("judge", at.number))
    rows = compute_difficulty(verdicts, pool.select("instruction_id", "task_type"), expected_orders(run.config.judge))
    check_scored(at, rows, verdicts)
    return Worked(rows, {"pool": pool.height, "scored": rows.height, "unscored": pool.height - rows.height})


def check_scored(at: StageAt, rows: pl.DataFrame, verdicts: pl.DataFrame) -> None:
    """Refuse a round in which nothing is scored: it would end the run as if nothing were hard.

    Raises:
        ConfigError: with the reasons, most frequent first.
    """
    if rows.height:
        return
    reasons = Counter(reason for reason in verdicts["reason"] if reason is not None)
    told = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    raise ConfigError(
        f"the judge scored no instruction of round {at.number} in every order ({told}); look at its replies in column "
        f"`raw` of {StageAt('judge', at.number).folder}/. If judge.endpoint, judge.sampling or the judge prompt is at "
        "fault, mend it and run the same command with --amend; if the judge itself was, and is mended, ask it again "
        "with `tapir retry-judge RUN --also terminal`"
    )
