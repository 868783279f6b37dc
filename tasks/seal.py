"""The closing task of a sharded stage: its manifest, with what it goes on without."""

from collections import Counter

from tapir_core.calls import Spend
from tapir_core.data.dataset import DatasetRef
from tapir_core.errors import BudgetReached
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks._task import project_task
from tasks.late_tags import tag_task_run
from tasks.limits import check_failed, check_missing
from tasks.outcomes import ShardOutcome
from tasks.runtime import current

__all__ = ["seal"]


@project_task("seal", run_name="seal {at}")
def seal(ref: RunRef, at: StageAt, outcomes: list[ShardOutcome], seconds: float) -> DatasetRef:
    """Write a sharded stage's manifest, in the order of its shards.

    A benchmark may fail as much as it will: it has a limit of its own, above which there is no figure, and no decision
    reads it; who started the run is told at its end (`tapir_core.reporting.benchmarks.require_figures`).
    """
    tag_task_run(f"stage-{at.name}")
    run = RunFolder(ref)
    ordered = sorted(outcomes, key=lambda outcome: outcome.index)
    missing = sum((Counter(outcome.missing) for outcome in ordered), Counter[str]())
    counts = sum((Counter(outcome.counts) for outcome in ordered), Counter[str]())
    parts = [outcome.part for outcome in ordered]
    if missing["budget"]:
        calls, rows = current(run).calls, sum(part.rows for part in parts)
        # Of a stage that asks in several roles the price of one says nothing.
        spent = calls.paid().get(at.stage.roles[0]) if len(at.stage.roles) == 1 else None
        raise BudgetReached(_budget_text(at, calls.cap_reached, rows, missing["budget"], spent))
    check_failed(at, ordered, run.config)
    check_missing(at, missing, sum(part.rows for part in parts), run.config.calls.max_missing_share)
    current(run).check_lease()
    sealed = run.seal(at, parts, accepted_missing=dict(missing), counts={**counts, "seconds": seconds})
    current(run).forget_tables()
    return sealed


def _budget_text(at: StageAt, cap: str, done: int, left: int, spent: Spend | None) -> str:
    """What was reached, what is done, what is left of the stage and what it would cost at the price so far."""
    cost = f", about {left * spent.usd / spent.requests:,.2f} USD at the price so far" if spent and spent.usd else ""
    return (
        f"{cap}. {at}: {done} rows are done, {left} are left{cost}. Nothing more is sent; what was received is stored. "
        "Raise the cap and run the same command again: it asks only for what is left."
    )
