"""Commands about a trained student: `tapir ask`, one question outside any flow, and `tapir export`."""

from importlib.resources import files
from typing import Annotated

import typer

from flows.commands import Root, RunName, console, print_line, run_ref, say
from tapir_core.calls import Failure
from tapir_core.errors import ConfigError, EngineError
from tapir_core.paths import export_folder
from tapir_core.reporting.report import model_card
from tapir_core.reporting.run_progress import find_student
from tapir_core.run_files import export_student
from tapir_core.run_folder import RunFolder
from tapir_core.storage import Storage
from tapir_core.summary.formats import student_name


def ask(
    name: RunName,
    text: Annotated[str, typer.Argument(help="The instruction.", show_default=False)],
    round_number: Annotated[int | None, typer.Option("--round", help="0 is S_0; the last one when left out.")] = None,
    root: Root = "runs",
) -> None:
    """`tapir ask`."""
    # Here: an export wants none of the engines that answer.
    from tasks.asking import chat, make_request
    from tasks.runtime import close_all, current

    run = RunFolder(run_ref(name, root))
    trained = run.trained_rounds
    if not trained or (round_number is not None and round_number not in trained):
        wanted = "no round" if round_number is None else f"round {round_number}"
        raise ConfigError(
            f"run {run.ref.name!r} has {'trained rounds ' + str(trained) if trained else 'trained nothing yet'}, so "
            f"{wanted} can answer; see `tapir status {run.ref.name}`"
        )
    number = trained[-1] if round_number is None else round_number
    runtime = current(run)
    student = runtime.student(number)
    say(f"S_{number} of run {run.ref.name}")
    try:
        request = make_request(run, "answer", student.voice, chat(text), run.config.student.sampling)
        outcome = runtime.calls.ask([request], student.source)[0]
    finally:
        close_all()
    if isinstance(outcome, Failure):
        raise EngineError(f"the student did not answer ({outcome.kind}): {outcome.message}")
    console.print(outcome.text, markup=False, highlight=False)


def export(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or its folder.", show_default=False)],
    which: Annotated[
        str, typer.Option("--round", metavar="best|N", help="`best` by the dev split, or a round; 0 is S_0.")
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
    number = find_student(run, which)
    folder = Storage(to or export_folder(run.ref.name, number))
    written = export_student(run, number, folder, model_card(run, number, use), on_file=say)
    say(f"{len(written)} files, all verified")
    print_line(console, f"{student_name(number)} of run {run.ref.name} is in {folder.url}")
