"""`tapir estimate`: what a run will take, before anybody is asked."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.commands import AsJson, ConfigPath, Overrides, console, print_line, print_table

if TYPE_CHECKING:
    from tapir_core.estimate.types import Estimate

__all__ = ["estimate", "print_estimate"]


def estimate(
    config: ConfigPath,
    overrides: Overrides = None,
    sample: Annotated[int, typer.Option(min=1, help="Instructions that are put into the real prompts.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Say what a run will take: calls, tokens, USD and hours by stage. Asks nobody."""
    from tapir_core.config.load import load_config
    from tapir_core.estimate.run import estimate_run
    from tapir_core.estimate.types import estimate_json

    found = estimate_run(load_config(config, overrides or []), source=str(config), sample=sample)
    if as_json:
        typer.echo(estimate_json(found), nl=False)
    else:
        print_estimate(console, found)


def print_estimate(console: Console, estimate: "Estimate") -> None:
    """The tables, who has no price, and what the figures rest on."""
    from tapir_core.reporting.estimate_table import benchmark_table, role_table, stage_table

    for table in (stage_table(estimate), role_table(estimate), benchmark_table(estimate)):
        if table.rows:
            print_table(console, table)
    for line in estimate.unknown_prices:
        console.print(f"No price: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print("Assumptions", style="bold")
    for sentence in estimate.assumptions:
        print_line(console, f"- {sentence}")
