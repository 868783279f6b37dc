"""`tapir compare`: runs side by side, as tables on the terminal and as a page below the run root."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tapir_core.paths import COMPARISON

if TYPE_CHECKING:
    from tapir_core.reporting.compare import Comparison

__all__ = ["compare", "print_comparison"]

console = Console()


def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names of runs.", show_default=False)],
    root: Annotated[str, typer.Option(help="Folder of all runs.")] = "runs",
) -> None:
    """Put runs with the same held-out set side by side: accuracy by task type, cost, share of answers re-used."""
    from tapir_core.reporting.compare import compare_runs
    from tapir_core.reporting.compare_report import write_comparison
    from tapir_core.run_folder import RunFolder, RunRef

    compared = compare_runs([RunFolder(RunRef(root, name)) for name in names])
    print_comparison(console, compared, write_comparison(compared, root, COMPARISON))


def print_comparison(console: Console, comparison: "Comparison", report: str) -> None:
    """The tables, and where the page is."""
    from flows.commands.terminal import print_table
    from tapir_core.reporting.compare import comparison_tables

    for table in comparison_tables(comparison).values():
        if table.rows:
            print_table(console, table, wrap=True)
    console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
