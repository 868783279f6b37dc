"""The closing task of a sharded stage: its manifest, with what it goes on without."""

from collections import Counter

from tapir_core.calls import Spend
from tapir_core.config import RunConfig
from tapir_core.data.dataset import DatasetRef
from tapir_core.errors import BudgetReached, ConfigError, TooMuchMissing
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks._task import project_task
from tasks.late_tags import tag_task_run
from tasks.outcomes import ShardOutcome
from tasks.runtime import current

__all__ = ["FEWEST_ASKED", "budget_text", "check_failed", "check_missing", "seal"]

FEWEST_ASKED = 20
"""With fewer requests, a share that failed says nothing about the rest."""

OTHER_ROLES = {
    **dict.fromkeys(("answer_heldout", "benchmark_answers"), "answer"),
    "wave_candidates": "expand",
    "benchmark_replies": "benchmark",
}
"""Role of a stage's calls, where the stage is not named as the role."""


@project_task("seal", run_name="seal {at}")
def seal(ref: RunRef, at: StageAt, outcomes: list[ShardOutcome], seconds: float) -> DatasetRef:
    """Write a sharded stage's manifest, in the order of its shards."""
    tag_task_run(f"stage-{at.name}")
    run = RunFolder(ref)
    ordered = sorted(outcomes, key=lambda outcome: outcome.index)
    missing = sum((Counter(outcome.missing) for outcome in ordered), Counter[str]())
    counts = sum((Counter(outcome.counts) for outcome in ordered), Counter[str]())
    parts = [outcome.part for outcome in ordered]
    if missing["budget"]:
        calls, rows = current(run).calls, sum(part.rows for part in parts)
        spent = calls.paid().get(OTHER_ROLES.get(at.name, at.name))
        raise BudgetReached(budget_text(at, calls.cap_reached, rows, missing["budget"], spent))
    if at.benchmark is None:
        # A benchmark has a limit of its own, and no decision reads it: above the limit there is no figure, the run goes
        # on, and who started it is told at its end (`tapir_core.reporting.benchmarks.require_figures`).
        check_failed(at, ordered, run.config)
    check_missing(at, missing, sum(part.rows for part in parts), run.config.calls.max_missing_share)
    current(run).check_lease()
    sealed = run.seal(at, parts, accepted_missing=dict(missing), counts={**counts, "seconds": seconds})
    current(run).forget_tables()
    return sealed


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


def check_failed(at: StageAt, outcomes: list[ShardOutcome], config: RunConfig) -> None:
    """Refuse to go on when more ended in terminal failures than accepted: what is paid next would be in vain.

    Raises:
        ConfigError: with counts by kind, what the provider said to one of them, and the ways on.
    """
    failed = sum((Counter(outcome.failed) for outcome in outcomes), Counter[str]())
    if at.wave is not None:
        # Waves ask for the types that are short: what a teacher declines of them stays short, and is reported as that.
        del failed["refused"]
    asked, accepted = sum(outcome.asked for outcome in outcomes), config.calls.max_failed_share
    if asked < FEWEST_ASKED or failed.total() <= accepted * asked:
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in failed.most_common())
    [(most, _)] = failed.most_common(1)
    sample = next(each for outcome in outcomes for each in outcome.samples if each.kind == most)
    raise ConfigError(
        f"{at}: {failed.total()} of {asked} requests failed for good ({failed.total() / asked:.1%}; {kinds}), more "
        f"than calls.max_failed_share = {accepted:g} accepts. To {sample.instruction_id} came {sample.said!r}. "
        f"{_ways_on(at, failed, config)}"
    )


def _ways_on(at: StageAt, failed: Counter[str], config: RunConfig) -> str:
    """What a user can do about terminal failures: they are stored, so the same question gets the same outcome."""
    role = OTHER_ROLES.get(at.name, at.name)
    asked = {"answer": "student", "judge": "judge"}.get(role, "teacher")
    ways = [
        f"If the model, its sampling or the prompt is at fault, change it ([{asked}] of the configuration) and run the "
        "same command with --amend: what is asked in another way is asked anew."
    ]
    if kinds := sorted(set(failed) - {"bad_reply"}):
        store = f"--store {config.calls.store_url}" if config.calls.store_url else f"--root {config.run.root}"
        statuses = " ".join(f"--status {kind}" for kind in kinds)
        ways.append(
            f"If the server was at fault and is mended, forget its failures with `tapir store prune {store} --role "
            f"{role} {statuses} --yes` and run the same command: it asks for these again."
        )
    ways.append("If so much is to be expected, raise calls.max_failed_share.")
    return " ".join(ways)


def budget_text(at: StageAt, cap: str, done: int, left: int, spent: Spend | None) -> str:
    """What was reached, what is done, what is left of the stage and what it would cost at the price so far."""
    cost = f", about {left * spent.usd / spent.requests:,.2f} USD at the price so far" if spent and spent.usd else ""
    return (
        f"{cap}. {at}: {done} rows are done, {left} are left{cost}. Nothing more is sent; what was received is stored. "
        "Raise the cap and run the same command again: it asks only for what is left."
    )
