"""`tapir side-by-side`: runs side by side, as tables on the terminal and as a page below the run root."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.commands.lines import console, print_line
from tapir_core.paths import SIDE_BY_SIDE

if TYPE_CHECKING:
    from tapir_core.reporting.side_by_side import SideBySide

__all__ = ["print_side_by_side", "side_by_side"]


def side_by_side(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names of runs.", show_default=False)],
    root: Annotated[str, typer.Option(help="Folder of all runs.")] = "runs",
) -> None:
    """Put runs with the same held-out set side by side: accuracy, benchmarks, paired differences, cost."""
    from tapir_core.reporting.side_by_side import put_side_by_side
    from tapir_core.reporting.side_by_side_report import write_side_by_side
    from tapir_core.run_folder import RunFolder, RunRef

    shown = put_side_by_side([RunFolder(RunRef(root, name)) for name in names])
    print_side_by_side(console, shown, write_side_by_side(shown, root, SIDE_BY_SIDE))


def print_side_by_side(console: Console, shown: "SideBySide", report: str) -> None:
    """The tables, and where the page is."""
    from flows.commands.tables import print_table
    from tapir_core.reporting.side_by_side import side_by_side_tables

    for table in (*side_by_side_tables(shown).values(), *shown.benchmarks, shown.paired):
        if table.rows:
            print_table(console, table)
    print_line(console, f"report: {report}")
