"""What is copied out of a root and verified: a run that nobody drives (`tapir move`), a student (`tapir export`)."""

from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from flows.commands.terminal import Root, RunName, console, print_line, run_ref, say
from flows.driver import Say, run_lease
from tapir_core import errors, paths, run_files, run_state
from tapir_core.data.dataset import kept_files
from tapir_core.reporting import report
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import TRAIN
from tapir_core.storage import Storage
from tapir_core.summary.formats import count, student_name

_COLUMNS = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())


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
        ConfigError: there is no such run, or something else lies where it would go.
        RunBusy: somebody drives it.
        TapirError: a file did not arrive whole; what arrived stays, and the same command goes on.
    """
    config = RunFolder(ref).config
    if _place(root) == _place(ref.root):
        raise errors.ConfigError(f"run {ref.name!r} is in {root!r} already; name another root")
    source, target = Storage(f"{ref.root}/{ref.name}"), Storage(f"{root.rstrip('/')}/{ref.name}")
    # On S3 a run is driven with a store of its own only, and without one there is no driver to keep away.
    is_undriven = "://" in config.run.root and config.calls.store_url is None
    with nullcontext() if is_undriven else run_lease(config):
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


def _place(root: str) -> str:
    return root.rstrip("/") if "://" in root else str(Path(root).resolve())


def export(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or its folder.", show_default=False)],
    which: Annotated[
        str, typer.Option("--round", metavar="best|N", help="`best` by the dev split, or a round; 0 is S_0.")
    ] = "best",
    to: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where to, or s3://…; exports/RUN-S_N when left out.", show_default=False),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload it to the Hugging Face hub too; private, unless it is there."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="What is made by --push is public.")] = False,
    root: Root = "runs",
) -> None:
    """`tapir export`."""
    use = (files("tasks.engines") / "exported_student.md").read_text().rstrip()
    run = RunFolder(run_ref(name, root))
    number = run_state.find_student(run, which)
    folder = Storage(to or paths.export_folder(run.ref.name, number))
    if public and not push:
        raise errors.ConfigError(
            "--public says how --push uploads, and there is no --push; give it, or leave --public out"
        )
    if push and "://" in folder.url:
        raise errors.ConfigError(f"--push uploads from this machine, and --to is {folder.url}; name a folder here")
    checkpoint = Storage(f"{run.storage.url}/{TRAIN.at(number).folder}")
    modelfile, why = run_files.write_modelfile(checkpoint, run.config.student)
    texts = {paths.MODEL_CARD: report.model_card(run, number, use)} | (
        {paths.MODELFILE: modelfile} if modelfile else {}
    )
    written = run_files.export_student(run, number, folder, texts, on_file=say)
    say(f"{len(written)} files, all verified")
    say("Modelfile for Ollama: " + (f"none, for {why}" if why else "never run with it"))
    of = f"{student_name(number)} of run {run.ref.name}"
    print_line(console, f"{of} is in {folder.url}")
    if push:
        print_line(console, f"{of} is at {push_folder(Path(folder.url), push, of, private=not public)}")


def push_folder(folder: Path, repository: str, what: str, *, private: bool) -> str:
    """Upload an exported student to the Hugging Face hub; gives the address of what was uploaded.

    Raises:
        MissingPrerequisite: the hub cannot be reached, or takes nothing from whoever is logged in here.
    """
    # They load for a while, and only this needs them.
    from httpx2 import HTTPError
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=what)
    # The library's own errors are of the first three kinds, those of the network below it of the last.
    except (OSError, ValueError, RuntimeError, HTTPError) as exc:
        why = " ".join(f"{type(exc).__name__} {exc}".split())
        raise errors.MissingPrerequisite(
            f"--push {repository}: the hub refuses, or is not to be reached ({why}); check network and name, give a "
            "token that may write (HF_TOKEN, or `hf auth login`), and try again: the folder is whole"
        ) from exc
    return str(made)
