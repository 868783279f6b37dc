"""Commands that read run folders and drive no run: `tapir status`, `report`, `move`, `export`.

What is copied out of a root, a run that nobody drives or a student, is verified.
"""

import secrets
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.resources import files
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.exc import SQLAlchemyError

from flows.commands.terminal import Root, RunName, console, print_lines, print_tables, run_ref, say
from flows.driver import run_lease
from tapir_core import calls, errors, paths, run_files, run_state, stages
from tapir_core.calls.store_tables import is_there
from tapir_core.comparison.baseline import read_baselines
from tapir_core.data.dataset import kept_files
from tapir_core.estimate.run import kept_hours
from tapir_core.reporting import benchmarks, page, sentences
from tapir_core.reporting.report import model_card, write_report
from tapir_core.run_folder import RunFolder, RunRef, runs_of
from tapir_core.storage import Storage
from tapir_core.summary import RunReader, read_progress, types
from tapir_core.summary.formats import NOTHING, count, minutes, number, score, score_in_words, student_name
from tasks.engines.training import launch
from tasks.input_files import Say

_RUNS = ("run", "created", "next", "stages", "accuracy, %", "USD", "left, about")
_STAGES = ("round", "stage", "rows", "missing", "seconds")
_NOTE = (
    "Accuracy, or quality retention on a judged held-out set, is that of the last scored student, on the test split "
    "where there is one, with its 95 % interval. USD is what teacher and judge cost over all starts; requests of "
    "unknown cost count in full. Left is the time of the stages to come; overlapping ones count in full, and the stop "
    "rule may end a run sooner."
)
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())


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
        raise errors.ConfigError(f"there is no run in {root!r}; start one with `tapir run configs/quickstart.toml`")
    print_tables(console, page.Table("", _RUNS, rows, text_columns=3, note=_NOTE))


def _print_run(run: RunFolder) -> None:
    """Every stage of a run, with the rows that it holds, what it goes on without, and its seconds.

    Then its benchmarks, its score, what it paid and how long it may take.
    """
    print_lines(console, f"run {run.ref.name} in {run.ref.root}, created {run.record.created[:19]}")
    look = RunReader(run)
    progress = read_progress(look, kept_hours(run))
    print_tables(console, page.Table("", _STAGES, tuple(_stage_rows(look, progress)), text_columns=2))
    print_tables(console, *benchmarks.benchmark_states_tables(look))
    print_lines(console, *filter(None, (*_state(run, progress), sentences.added(*read_baselines(run)))))


def _state(run: RunFolder, progress: types.RunProgress) -> tuple[str, ...]:
    """Lines on score, spending, last error and what comes next; an empty one where there is nothing to say."""
    usd, unknown, is_driven = _store_says(run)
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
        f"training: {step}" if (step := _last_step(run, progress.next_stage)) else "",
        f"stopped early: {progress.stopped}" if progress.stopped else "",
        ("" if is_driven else "no process is at work on it; the command that started it goes on")
        if progress.next_stage and not unknown
        else "",
        ("" if progress.stopped else sentences.proposed(run.config) or "done")
        if progress.next_stage is None
        else f"next: {progress.next_stage}; how long it takes is known once a round is done"
        if progress.seconds_left is None
        else f"next: {progress.next_stage}; about {minutes(progress.seconds_left)} of work left, by its stages so far "
        "and its estimate",
    )


def _last_step(run: RunFolder, at: stages.StageAt | None) -> str:
    key = run.key(at) if at is not None and at.stage.trains else None
    return launch.last_step(run.workplace.local(paths.attempt_folder(at.number, key))) if at and key else ""


def _stage_rows(look: RunReader, progress: types.RunProgress) -> Iterator[tuple[str, ...]]:
    place = None
    for at, rows in progress.stages.items():
        manifest = look.manifest(at)
        missing = sum(manifest.accepted_missing.values()) if manifest else 0
        here = "" if at.round is None else paths.OF_NO_ROUND.get(at.round, str(at.round))
        yield (
            "" if here == place else here,
            f"{at.name} {at.benchmark}" if at.benchmark else at.name,
            count(rows),
            count(missing) if missing else "",
            number(manifest.counts.get("seconds", 0.0), 1) if manifest else "",
        )
        place = here


def _run_row(run: RunFolder) -> tuple[str, ...]:
    try:
        progress = read_progress(RunReader(run), kept_hours(run))
    except (errors.TapirError, ValueError, TypeError) as exc:
        return run.ref.name, "", f"cannot be read: {str(exc).splitlines()[0]}", "", "", "", ""
    usd, _, is_driven = _store_says(run)
    done = sum(rows is not None for rows in progress.stages.values())
    judged = " quality retention" if run.config.data.judged else ""
    scored = "" if progress.student is None else f"{student_name(progress.student)}{judged} {score(progress.score)}"
    following = progress.next_stage or ("stopped early" if progress.stopped else "done")
    return (
        run.ref.name,
        run.record.created[:10],
        f"{following}, at work" if is_driven else str(following),
        f"{done}/{len(progress.stages)}",
        scored,
        number(usd),
        NOTHING if progress.seconds_left is None else minutes(progress.seconds_left) if progress.next_stage else "",
    )


def _store_says(run: RunFolder) -> tuple[float | None, str, bool]:
    """What teacher and judge were paid, or may be, over all starts; why that is not known; whether a process drives it.

    Nothing is known where there is no store.
    """
    try:
        url = calls.store_url(run.config)
        if not is_there(url):
            return None, "", False
        with calls.AnswerStore(url, longest_seconds=0.0) as store:
            lease = run_lease(run.config)
            holding = lease.holding()
            lease.release()  # its connections; it was not taken
            paid = sum(each.usd for each in store.spend_by_role(run.record.id).values())
            return paid, "", holding is not None and holding.lives
    except SQLAlchemyError as error:
        return None, f"the call store cannot be read: {getattr(error, 'orig', error)}", False
    except errors.TapirError as error:
        return None, str(error), False


def report(name: RunName, root: Root = "runs") -> None:
    """`tapir report`."""
    print_lines(console, f"report: {write_report(RunFolder(run_ref(name, root)))}")


def move(
    name: RunName,
    to: Annotated[str, typer.Argument(metavar="ROOT", help="Folder of all runs, or s3://…", show_default=False)],
    root: Root = "runs",
    remove: Annotated[bool, typer.Option("--remove", help="Delete the original once the copy is verified.")] = False,
) -> None:
    """`tapir move`."""
    move_run(run_ref(name, root), to, console, say=say, remove=remove)


def move_run(ref: RunRef, root: str, console: Console, *, say: Say, remove: bool = False) -> None:
    """Copy a run to ``root``; the original stays unless ``remove`` says otherwise.

    Raises:
        ConfigError: there is no such run, ``root`` is no folder, something else lies where it would go, or ``remove``
            would lose a training that has not ended.
        RunBusy: somebody drives it.
        TapirError: a file did not arrive whole; what arrived stays, and the same command goes on.
    """
    if root[:1] in ("", "~"):
        raise errors.ConfigError(f"ROOT {root!r} is no folder here; write the path of one, without ~")
    config = RunFolder(ref).config
    source, target = Storage(f"{ref.root}/{ref.name}"), Storage(f"{root.rstrip('/')}/{ref.name}")
    # On S3 a run is driven with a store of its own only, and without one there is no driver to keep away.
    is_undriven = "://" in config.run.root and config.calls.store_url is None
    with nullcontext() if is_undriven else run_lease(config):
        mark = f".{secrets.token_hex(8)}"
        target.write_bytes(mark, b"")
        is_within = any(path.endswith(mark) for path in source.files())  # however the two are called
        target.remove(mark)
        if is_within:
            raise errors.ConfigError(f"run {ref.name!r} is in {root!r} already; name another root")
        if at_work := [path for path in source.files() if remove and f"/{paths.TRAINING}/" in path]:
            raise errors.ConfigError(
                f"--remove would lose {at_work[0]}, of a training that has not ended and does not move; finish the "
                "training, remove its folder, or move without --remove"
            )
        # A bar on a terminal, nothing elsewhere.
        with Progress(*_COLUMNS, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("copying and verifying", total=None)
            _copy_kept(RunFolder(ref), root, say)
            done = run_files.copy_run(
                source, target, on_file=lambda _, size, total: bar.update(task, total=total, advance=size)
            )
        was_there = f"; {count(done.already_there)} were there" if done.already_there else ""
        say(f"copied {count(done.files)} files, {count(done.bytes)} bytes{was_there}; all are verified")
        if remove:
            run_files.remove_run(source)
    console.print(f"run {ref.name} is in {root}", highlight=False)
    console.print(f"{ref.root} has it no more" if remove else f"the original stays in {ref.root}", highlight=False)
    if config.calls.store_url is None and "://" not in ref.root:
        here, there = f"{ref.root}/{paths.STORE}", "postgresql://…" if "://" in root else f"{root}/{paths.STORE}"
        say(f"its paid answers stay in {here}; `tapir store copy {here} {there}` copies them")


def _copy_kept(run: RunFolder, root: str, say: Say) -> None:
    """What the run's benchmarks read in place of addresses; other runs may share it, so it stays where it was, too."""
    here = Storage(run.ref.root)
    for path, sha256 in kept_files(run.config, run.record.ingredients).items():
        if here.exists(path):
            run_files.copy_file(here, Storage(root), path, sha256)
        else:
            say(f"{here.url}/{path} is not there; the run will fetch it from its address")


def export(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or its folder.", show_default=False)],
    which: Annotated[
        str,
        typer.Option(
            "--round", metavar="best|N|average", help="`best` by the dev split, or a round; 0 is S_0; or the average."
        ),
    ] = "best",
    to: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where to, or s3://…; exports/RUN-S_N when left out.", show_default=False),
    ] = None,
    root: Root = "runs",
) -> None:
    """`tapir export`."""
    use = (files("tasks.engines") / "exported_student.md").read_text().rstrip()
    run = RunFolder(run_ref(name, root))
    if parser := getattr(run.config.student.engine, "tool_parser", ""):
        use = use.replace("FOLDER`.", f"FOLDER --enable-auto-tool-choice --tool-call-parser {parser}`.")
    number = run_state.find_student(run, which)
    folder = Storage(to or paths.export_folder(run.ref.name, number))
    modelfile, why = run_files.write_modelfile(
        Storage(f"{run.storage.url}/{stages.checkpoint_at(number).folder}"), run.config.student
    )
    texts = {paths.MODEL_CARD: model_card(run, number, use)} | ({paths.MODELFILE: modelfile} if modelfile else {})
    say(f"{len(run_files.export_student(run, number, folder, texts, on_file=say))} files, all verified")
    say("Modelfile for Ollama: " + (f"none, for {why}" if why else "never run with it"))
    print_lines(console, f"{student_name(number)} of run {run.ref.name} is in {folder.url}")
