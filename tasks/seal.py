"""The closing task of a sharded stage: its manifest, with what it goes on without."""

from collections import Counter

from tapir_core.calls import Spend
from tapir_core.data.dataset import DatasetRef
from tapir_core.errors import BudgetReached, TooMuchMissing
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks._task import ShardOutcome, project_task
from tasks.runtime import current

__all__ = ["budget_text", "check_missing", "seal"]


@project_task("seal", run_name="seal {at}")
def seal(ref: RunRef, at: StageAt, outcomes: list[ShardOutcome], seconds: float) -> DatasetRef:
    """Write a sharded stage's manifest, in the order of its shards."""
    run = RunFolder(ref)
    ordered = sorted(outcomes, key=lambda outcome: outcome.index)
    missing = sum((Counter(outcome.missing) for outcome in ordered), Counter[str]())
    counts = sum((Counter(outcome.counts) for outcome in ordered), Counter[str]())
    parts = [outcome.part for outcome in ordered]
    if missing["budget"]:
        calls, rows = current(run).calls, sum(part.rows for part in parts)
        raise BudgetReached(budget_text(at, calls.cap_reached, rows, missing["budget"], calls.paid().get(at.name)))
    check_missing(at, missing, sum(part.rows for part in parts), run.config.calls.max_missing_share)
    current(run).check_lease()
    return run.seal(at, parts, accepted_missing=dict(missing), counts={**counts, "seconds": seconds})


def check_missing(at: StageAt, missing: Counter[str], rows: int, accepted_share: float) -> None:
    """Refuse to go on when more is missing than accepted.

    Raises:
        TooMuchMissing: with counts by kind and how to resume.
    """
    lacking = missing.total()
    share = lacking / (rows + lacking) if lacking else 0.0
    if share > accepted_share:
        kinds = ", ".join(f"{count} {kind}" for kind, count in missing.most_common())
        raise TooMuchMissing(
            f"{at}: {lacking} of {rows + lacking} rows are missing ({share:.1%}; {kinds}), more than "
            f"calls.max_missing_share = {accepted_share:g} accepts. What was received is stored. Mend the endpoint and "
            f"run the same command again: it asks only for the missing rows. Or raise calls.max_missing_share."
        )


def budget_text(at: StageAt, cap: str, done: int, left: int, spent: Spend | None) -> str:
    """What was reached, what is done, what is left of the stage and what it would cost at the price so far."""
    cost = f", about {left * spent.usd / spent.requests:,.2f} USD at the price so far" if spent and spent.usd else ""
    return (
        f"{cap}. {at}: {done} rows are done, {left} are left{cost}. Nothing more is sent; what was received is stored. "
        "Raise the cap and run the same command again: it asks only for what is left."
    )
