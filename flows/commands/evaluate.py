"""`tapir evaluate`: what the deployment *evaluate* does, in this process and on this terminal."""

from typing import Annotated

import typer
from rich.console import Console

from flows.commands.run_names import run_ref

__all__ = ["evaluate"]

console = Console()
errors = Console(stderr=True)


def evaluate(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or its folder.", show_default=False)],
    which: Annotated[
        str, typer.Option("--round", metavar="N|best|backbone|all", help="Which student; 0 is S_0.")
    ] = "all",
    root: Annotated[str, typer.Option(help="Folder of all runs.")] = "runs",
) -> None:
    """Score students of a run on its held-out set, where their scores do not stand yet."""
    from flows.commands.distil import shown_live
    from flows.commands.server import connect_prefect
    from flows.commands.terminal import print_table
    from flows.driver import hold_known_run
    from tapir_core.reporting.students import find_students, unscored_students
    from tapir_core.reporting.summary import summarise
    from tapir_core.reporting.tables import students_table

    with hold_known_run(run_ref(name, root), say=_say) as run:
        numbers = find_students(run, which)
        if unscored_students(run, numbers):
            _say("connecting to Prefect")
            with connect_prefect(run.ref), shown_live(run, console):
                from flows.evaluate import evaluate_students

                evaluate_students(run.ref, numbers)
        print_table(console, students_table(summarise(run), numbers))


def _say(line: str) -> None:
    errors.print(line, style="dim", markup=False, highlight=False)
