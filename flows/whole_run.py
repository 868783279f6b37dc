"""A run from its configuration to its end, and then its baseline: what all ways of starting a run share.

The baseline (`tapir_core.comparison.baseline`) comes after the last round, also after an early stop, as a run of its
own. While it is not finished the run itself is done, and the same command goes on with it.
"""

from flows.arm_run import Count, Distil, drive_matched, is_finished
from flows.driver import Say, hold_run, is_done
from tapir_core.comparison import baseline
from tapir_core.comparison.outcome import Training
from tapir_core.config import RunConfig
from tapir_core.estimate.run import save_estimate
from tapir_core.paths import REPORT
from tapir_core.reporting.report import write_report
from tapir_core.run_folder import RunFolder
from tapir_core.summary import summarise
from tapir_core.summary.types import RunSummary
from tasks.engines import machine


def count_round(run: RunFolder, number: int) -> Training:
    """As `tasks.train.count_round`."""
    # Not before: Prefect reads its settings when it is imported.
    from tasks import train

    return train.count_round(run, number)


def drive(
    config: RunConfig,
    distil: Distil,
    *,
    say: Say,
    until: str | None = None,
    amend: bool = False,
    count: Count = count_round,
) -> RunSummary:
    """Hold a run and ``distil`` it where something is left to do, then its baseline; what the run has come to.

    Raises:
        RunBusy: another process drives the run.
        RunChanged: finished stages would be made otherwise now, and `amend` is not set.
        TapirError: the baseline cannot be matched, or as `distill`.
    """
    with hold_run(config, say=say, amend=amend) as run:
        if not is_done(run, until):
            for note in save_estimate(run, len(machine.gpu_memory())):
                say(f"data.pool: {note}")
            distil(run, until)
        else:
            say(f"run {run.ref.name} has nothing left to do")
            if not run.storage.exists(REPORT):
                say(f"report: {write_report(run)}")
    if until is None:
        drive_baseline(run, distil, say=say, count=count)
    return baseline.with_baseline(summarise(run), run)


def lacks_baseline(run: RunFolder) -> bool:
    """Whether a finished run is to have a baseline that is not finished; one that trained no round has none."""
    has_rounds = any(run.trained_rounds) and baseline.is_wanted(run)
    return has_rounds and not is_finished(baseline.match_baseline(run))


def drive_baseline(run: RunFolder, distil: Distil, *, say: Say, count: Count = count_round) -> None:
    """Finish the baseline of a finished run that nobody holds, where it is to have one.

    Raises:
        TapirError: it cannot be matched, or as `distil`.
    """
    if not lacks_baseline(run):
        return
    matched, name = baseline.match_baseline(run), run.ref.name
    say(f"baseline of {name}: plain fine-tuning on as many tokens as all its rounds, as run {matched.ref.name}")
    try:
        drive_matched(matched, distil, count, say=say, follows=True)
    except BaseException:
        say(
            f"run {name} is done, its baseline {matched.ref.name} is not: the same command goes on with it, and "
            'evaluation.baseline = "none" leaves it out'
        )
        raise
