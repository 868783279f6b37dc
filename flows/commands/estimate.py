"""What `tapir estimate` prints."""

from rich.console import Console

from flows.commands.lines import print_line
from flows.commands.tables import print_table
from tapir_core.estimate.types import Estimate
from tapir_core.reporting.estimate_table import benchmark_table, role_table, stage_table

__all__ = ["print_estimate"]


def print_estimate(console: Console, estimate: Estimate) -> None:
    """The tables, who has no price, and what the figures rest on."""
    for table in (stage_table(estimate), role_table(estimate), benchmark_table(estimate)):
        if table.rows:
            print_table(console, table)
    for line in estimate.unknown_prices:
        console.print(f"No price: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print("Assumptions", style="bold")
    for sentence in estimate.assumptions:
        print_line(console, f"- {sentence}")
