"""`tapir export`: a student of a run as a model folder of its own."""

from importlib.resources import files
from typing import Annotated

import typer

from flows.commands import Root, console, print_line, run_ref, say

__all__ = ["export"]


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
    """Write a student of a run as a model folder with a model card, for transformers and vLLM."""
    from tapir_core.paths import export_folder
    from tapir_core.reporting.model_card import model_card
    from tapir_core.reporting.students import find_student
    from tapir_core.run_files import export_student
    from tapir_core.run_folder import RunFolder
    from tapir_core.storage import Storage
    from tapir_core.summary.formats import student_name

    use = (files("tasks.engines") / "exported_student.md").read_text().rstrip()
    run = RunFolder(run_ref(name, root))
    number = find_student(run, which)
    folder = Storage(to or export_folder(run.ref.name, number))
    written = export_student(run, number, folder, model_card(run, number, use), on_file=say)
    say(f"{len(written)} files, all verified")
    print_line(console, f"{student_name(number)} of run {run.ref.name} is in {folder.url}")
