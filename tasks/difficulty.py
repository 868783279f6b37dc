"""Stage `difficulty`: MFD(x) ← mean over orders of s_teacher − s_student."""

from collections import Counter

import polars as pl

from tapir_core.curriculum import compute_difficulty
from tapir_core.errors import ConfigError
from tapir_core.judging import expected_orders
from tapir_core.judging.orders import combine_judges
from tapir_core.run_folder import RunFolder
from tapir_core.stages import DIFFICULTY, StageAt
from tasks._task import stage_task
from tasks.inputs import round_pool
from tasks.outcomes import FEWEST_ASKED, Worked


@stage_task(DIFFICULTY)
def difficulty(run: RunFolder, at: StageAt) -> Worked:
    """MFD of every instruction whose every order is scored; the others are in neither seeds nor easy.

    Raises:
        ConfigError: none is scored, or more are unscored than accepted.
    """
    pool = round_pool(run, at.number)
    judge = run.config.judge
    verdicts = combine_judges(run.rows(StageAt("judge", at.number)), judge.panel_rule)
    rows = compute_difficulty(verdicts, pool.select("instruction_id", "task_type"), expected_orders(judge))
    check_scored(at, rows, verdicts, pool.height, run.config.calls.max_failed_share)
    return Worked(rows, {"pool": pool.height, "scored": rows.height, "unscored": pool.height - rows.height})


def check_scored(at: StageAt, rows: pl.DataFrame, verdicts: pl.DataFrame, asked: int, accepted_share: float) -> None:
    """Refuse a round in which little is scored: seeds would be drawn from what is left, or the run end as if learnt.

    ``rows`` are the scored ones of ``asked`` instructions.

    Raises:
        ConfigError: with the reasons, most frequent first.
    """
    if rows.height and (asked < FEWEST_ASKED or asked - rows.height <= accepted_share * asked):
        return
    reasons = Counter(reason for reason in verdicts["reason"] if reason is not None)
    told = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    raise ConfigError(
        f"the judge scored {rows.height} of {asked} instructions of round {at.number} in every order ({told}); "
        f"calls.max_failed_share = {accepted_share:g} accepts no more unscored. Look at the replies in column `raw` of "
        f"{StageAt('judge', at.number).folder}/. If judge.endpoint, judge.sampling or the judge prompt is at fault, "
        "mend it and run the same command with --amend; if the judge itself was, and is mended, ask it again with "
        "`tapir retry-judge RUN --also terminal`"
    )
