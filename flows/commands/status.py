"""`tapir status`: how far runs are, read from their folders, and what they paid, from their store."""

from collections.abc import Iterator
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from flows.commands.terminal import Root, console, print_line, print_tables, run_ref
from tapir_core.calls import AnswerStore, store_url
from tapir_core.comparison.baseline import read_baseline
from tapir_core.errors import ConfigError, TapirError
from tapir_core.estimate.run import kept_hours
from tapir_core.paths import BACKBONE
from tapir_core.reporting import benchmarks, page, sentences
from tapir_core.run_folder import RunFolder, runs_of
from tapir_core.store_admin.rows import is_there
from tapir_core.summary import RunReader, read_progress
from tapir_core.summary.formats import NOTHING, count, minutes, number, score, score_in_words, student_name
from tapir_core.summary.types import RunProgress

_RUNS = ("run", "created", "next", "stages", "accuracy, %", "USD", "left, about")
_STAGES = ("round", "stage", "rows", "missing", "seconds")
_NOTE = (
    "Accuracy, or quality retention on a judged held-out set, is that of the last scored student, on the test split "
    "where there is one, with its 95 % interval. USD is what teacher and judge cost over all starts; requests of "
    "unknown cost count in full. Left is the time of the stages to come; overlapping ones count in full, and the stop "
    "rule may end a run sooner."
)


def status(
    name: Annotated[str | None, typer.Argument(help="Name of a run; all runs when left out.")] = None,
    root: Root = "runs",
) -> None:
    """`tapir status`."""
    if name is None:
        _print_runs(root)
    else:
        _print_run(RunFolder(run_ref(name, root)))


def _print_runs(root: str) -> None:
    """One line for each run of a root.

    Raises:
        ConfigError: there is none.
    """
    rows = tuple(map(_run_row, runs_of(root)))
    if not rows:
        raise ConfigError(f"there is no run in {root!r}; start one with `tapir run configs/quickstart.toml`")
    print_tables(console, page.Table("", _RUNS, rows, text_columns=3, note=_NOTE))


def _print_run(run: RunFolder) -> None:
    """Every stage of a run, with the rows that it holds, what it goes on without, and its seconds.

    Then its benchmarks, its score, what it paid and how long it may take.
    """
    print_line(console, f"run {run.ref.name} in {run.ref.root}, created {run.record.created[:19]}")
    look = RunReader(run)
    progress = read_progress(look, kept_hours(run))
    print_tables(console, page.Table("", _STAGES, tuple(_stage_rows(look, progress)), text_columns=2))
    print_tables(console, *benchmarks.benchmark_states_tables(look))
    for line in filter(None, (*_state(run, progress), sentences.added(read_baseline(run)))):
        print_line(console, line)


def _state(run: RunFolder, progress: RunProgress) -> tuple[str, ...]:
    """Lines on score, spending, last error and what comes next; an empty one where there is nothing to say."""
    usd, unknown = _usd(run)
    student, found, judged, cap = progress.student, progress.score, run.config.data.judged, run.config.budget.usd
    by = f"; judged by {found.judge}" if found and (judged or run.config.judge.verifies("heldout")) else ""
    return (
        f"{student_name(student)} on the held-out {progress.split} split: "
        f"{'quality retention ' if judged else ''}{score_in_words(found)}{by}"
        if found is not None and student is not None
        else "",
        f"what it spent is not known: {unknown}"
        if unknown
        else f"{number(usd or 0.0)} USD spent{'' if cap is None else f' of at most {number(cap)}'} on teacher and "
        "judge, over all starts (requests of unknown cost count in full)",
        run.error and f"the last start ended with: {run.error}",
        f"stopped early: {progress.stopped}"
        if progress.stopped
        else "done"
        if progress.next_stage is None
        else f"next: {progress.next_stage}; how long it takes is known once a round is done"
        if progress.seconds_left is None
        else f"next: {progress.next_stage}; about {minutes(progress.seconds_left)} of work left, by its stages so far "
        "and its estimate",
    )


def _stage_rows(look: RunReader, progress: RunProgress) -> Iterator[tuple[str, ...]]:
    place = None
    for at, rows in progress.stages.items():
        manifest = look.manifest(at)
        missing = sum(manifest.accepted_missing.values()) if manifest else 0
        seconds = number(manifest.counts.get("seconds", 0.0), 1) if manifest else ""
        here = "" if at.round is None else "backbone" if at.round == BACKBONE else str(at.round)
        name = f"{at.name} {at.benchmark}" if at.benchmark else at.name
        yield "" if here == place else here, name, count(rows), count(missing) if missing else "", seconds
        place = here


def _run_row(run: RunFolder) -> tuple[str, ...]:
    try:
        progress = read_progress(RunReader(run), kept_hours(run))
    except (TapirError, ValueError, TypeError) as exc:
        return run.ref.name, "", f"cannot be read: {str(exc).splitlines()[0]}", "", "", "", ""
    usd = number(_usd(run)[0])
    done = sum(rows is not None for rows in progress.stages.values())
    judged = " quality retention" if run.config.data.judged else ""
    scored = "" if progress.student is None else f"{student_name(progress.student)}{judged} {score(progress.score)}"
    left = NOTHING if progress.seconds_left is None else minutes(progress.seconds_left) if progress.next_stage else ""
    following = "stopped early" if progress.stopped else str(progress.next_stage or "done")
    return run.ref.name, run.record.created[:10], following, f"{done}/{len(progress.stages)}", scored, usd, left


def _usd(run: RunFolder) -> tuple[float | None, str]:
    """What teacher and judge were paid, or may be, for the run over all its starts, and why that is not known.

    Nothing where there is no store.
    """
    try:
        url = store_url(run.config)
        if not is_there(url):
            return None, ""
        with AnswerStore(url, patient=False) as store:
            return sum(each.usd for each in store.spend_by_role(run.record.id).values()), ""
    except SQLAlchemyError as error:
        return None, f"the call store cannot be read: {getattr(error, 'orig', error)}"
    except TapirError as error:
        return None, str(error)
