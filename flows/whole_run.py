"""What a person does with one run, by a command and by a form alike: distil it, ask its judge again, score students.

The baseline (`tapir_core.comparison.baseline`) comes after the last round, also after an early stop, as a run of its
own. While it is not finished the run itself is done, and the same command goes on with it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from flows.arm_run import Count, Distil, drive_matched, is_finished
from flows.driver import Say, hold_known_run, hold_run, is_done
from tapir_core.comparison import baseline
from tapir_core.comparison.outcome import Training
from tapir_core.config import RunConfig
from tapir_core.estimate.run import save_estimate
from tapir_core.paths import REPORT
from tapir_core.reporting import sentences
from tapir_core.reporting.report import write_report
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import (
    changed_stages,
    find_benchmarks,
    find_students,
    stages_to_retry,
    unscored_students,
)
from tapir_core.stages import Compared
from tapir_core.summary import require_figures, summarise
from tapir_core.summary.types import RunSummary
from tasks.engines import machine

T = TypeVar("T")
Work: TypeAlias = Literal["distil", "judge", "evaluate", "show"]
"""On an opened run; `show` where all scores stand, and it is only to show them."""
Do: TypeAlias = Callable[..., Any]
"""Does a work on a run, with what its flow takes beside: as a command, or as a part of a form's flow run."""


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


def retry_run(
    ref: RunRef,
    number: int | None,
    do: Do,
    tell: Callable[[str], object],
    *,
    say: Say,
    also_terminal: bool,
    go_on: bool,
) -> RunSummary:
    """Ask the judge again for the verdicts that a run went on without; what the run has come to.

    Args:
        ref: the run.
        number: one round; nothing: all that are judged.
        do: does the work.
        tell: told what came of it, a sentence at a time.
        say: told how it gets on.
        also_terminal: forget the replies of unscored verdicts too, and ask for them anew.
        go_on: redo the stages that the new verdicts change, and go on to the end, of the baseline too.

    Raises:
        ConfigError: nothing of round ``number`` is judged.
        NoFigure: it went on, and a student has no figure on a benchmark of each round.
    """
    distil = partial(do, "distil")
    with hold_known_run(ref, say=say) as run:
        again = stages_to_retry(run, number, also_terminal=also_terminal)
        for each in do("judge", run, again, also_terminal) if again else ():
            tell(
                f"{each['stage']}: {each['missing_before']} verdicts missing before, {each['missing_after']} now; "
                f"{each['unscored_before']} unscored before, {each['unscored_after']} now."
            )
        changed = changed_stages(run)
        if go_on and (changed or not is_done(run, None)):
            say("going on with the run")
            distil(run, None)
        nothing = sentences.nothing_to_retry(also_terminal=also_terminal)
        tell(sentences.changes(changed, redone=go_on) if again or changed else nothing)
        if changed and not go_on:
            command = f"`tapir retry-judge {ref.name} --continue`"
            tell(f"Redo them with {command} (in the UI: Continue the run), or with the run's own command.")
    if go_on:
        drive_baseline(run, distil, say=say)
    summary = baseline.with_baseline(summarise(run), run)
    if added := sentences.added(summary.baseline):
        tell(added)
    if go_on:
        require_figures(summary)
    return summary


def evaluate_run(
    ref: RunRef,
    which: str,
    names: str,
    do: Do,
    show: Callable[[RunFolder, RunSummary, list[Compared], list[str]], T],
    *,
    say: Say,
    also_terminal: bool,
) -> T:
    """Score students of a run, finished or not, where their scores do not stand; gives what ``show`` returns.

    Args:
        ref: the run.
        which: students and models of files, as `find_students` takes them.
        names: benchmarks, as `find_benchmarks` takes them.
        do: does the work.
        show: shows their scores.
        say: told how it gets on.
        also_terminal: judges of benchmarks are asked anew where they failed for good.

    Raises:
        ConfigError: there is no such student or benchmark.
        NoFigure: too many judgments failed for a figure; what there is is shown first.
    """
    with hold_known_run(ref, say=say, any_version=True) as run:
        benchmarks = find_benchmarks(run, names)
        compared = find_students(run, which, benchmarks)
        unscored = unscored_students(run, compared, benchmarks, also_terminal=also_terminal)
        do("evaluate" if unscored else "show", run, compared, benchmarks, also_terminal)
        summary = summarise(run)
        shown = show(run, summary, compared, benchmarks)
        require_figures(summary, compared, benchmarks)
        return shown
