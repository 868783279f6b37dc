"""`tapir compare`: arms against each other over several run seeds, one run after another, then tables and a page."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.commands import console, errors, print_line, print_table, say
from tapir_core.errors import MissingPrerequisite
from tapir_core.paths import COMPARE_PLACE

if TYPE_CHECKING:
    from tapir_core.comparison.figures import ComparedArms
    from tapir_core.comparison.outcome import Training
    from tapir_core.run_folder import RunFolder

__all__ = ["compare", "show_arms"]


def compare(
    spec: Annotated[
        Path, typer.Argument(help="TOML file that says what is compared; configs/compare_*.toml.", show_default=False)
    ],
    only: Annotated[str, typer.Option(metavar="ARM[,ARM]", help="Run these arms, and what they are matched to.")] = "",
    run_seeds: Annotated[str, typer.Option(metavar="N[,N]", help="Run these run seeds.")] = "",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Replace a value for all arms.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Put what finished runs came to there, and run none of which it is there already: a comparison can be "
            "made on several machines.",
            show_default=False,
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Run nothing: set side by side what is finished.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown alone.")] = False,
) -> None:
    """Run the arms of a comparison that are not finished, each matched to the reference; then set them side by side."""
    from flows.arm_run import drive_run
    from flows.commands.live import connect_when_needed
    from flows.compare import not_finished, read_asked, read_comparison, run_comparison
    from tapir_core.reporting.arms_report import arms_card, arms_plots_card, write_arms
    from tapir_core.run_folder import RunRef

    asked = read_asked(spec, overrides or [], only=only, run_seeds=run_seeds, results=results, show=show)
    with connect_when_needed(RunRef(asked.plan.root, COMPARE_PLACE)) as connect:
        engines = _Engines(connect, errors if markdown else console)
        drive = partial(drive_run, asked.plan, engines=engines, say=say)
        failed = run_comparison(asked.plan, asked.chosen, drive, say=say, results=asked.results)
        compared = read_comparison(asked.plan, asked.results, keep=not show)
        if compared.rows:
            page, card = write_arms(compared, asked.plan.root), arms_card(compared)
            if markdown:
                typer.echo(card, nl=False)
            else:
                _print(compared, page)
            # A server of our own would be started, and ended, for a table that has just been printed.
            if _stands(asked.plan.root):
                connect()
                show_arms(compared.name, card, arms_plots_card(compared))
        else:
            console.print("nothing is finished yet, so there is nothing to compare", highlight=False)
    if failed:
        raise not_finished(failed)


def show_arms(name: str, card: str, plots: str) -> None:
    """Show the arms of the comparison ``name`` in Prefect's UI: their card and their plots, both Markdown."""
    from flows.running.project_flow import project_flow
    from tasks.artifacts import publish_comparison

    # Without parameters: Prefect would keep the images with the flow run, and load them with every list of flow runs.
    @project_flow("compare", run_name=name)
    def compare() -> None:
        publish_comparison(name, card, plots)

    compare()


def _stands(root: str) -> bool:
    """Whether a server is there that shows the table; one that is named and away keeps nobody from reading it."""
    from flows.prefect_server.connection import find_server

    try:
        return find_server(root) is not None
    except MissingPrerequisite as error:
        say(f"not shown in Prefect's UI: {error}")
        return False


class _Engines:
    """The real ones, shown on the terminal; Prefect is there from the first thing that needs it."""

    def __init__(self, connect: Callable[[], None], shown_on: Console) -> None:
        self._connect, self._shown_on = connect, shown_on

    def distil(self, run: "RunFolder", until: str | None) -> None:
        """Distil it with the live display."""
        from tapir_core.estimate.run import save_estimate

        save_estimate(run)
        self._connect()
        from flows.commands.live import distil_shown

        distil_shown(run, self._shown_on, until)

    def count(self, run: "RunFolder", number: int) -> "Training":
        """What the training of a round will come to."""
        self._connect()
        from tasks.train import count_round

        return count_round(run, number)


def _print(compared: "ComparedArms", page: str) -> None:
    from tapir_core.comparison.verdict import covers_sentence, verdicts
    from tapir_core.reporting.arms_report import narrow_tables

    for table in narrow_tables(compared):
        print_table(console, table)
    for sentence in (*verdicts(compared), covers_sentence(compared), f"page: {page}"):
        print_line(console, sentence)
