"""`tapir compare`: arms against each other over several run seeds, one run after another, then tables and a page."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tapir_core.errors import BudgetReached, ConfigError, TapirError
from tapir_core.paths import COMPARE_PLACE
from tapir_core.run_folder import RunFolder, RunRef

if TYPE_CHECKING:
    from tapir_core.comparison.figures import ComparedArms
    from tapir_core.comparison.outcome import Training

__all__ = ["compare"]

console = Console()
errors = Console(stderr=True)


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
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table in Markdown, and nothing else.")
    ] = False,
) -> None:
    """Run the arms of a comparison that are not finished, each matched to the reference; then set them side by side."""
    from flows.compare import check_arms, read_comparison, run_comparison
    from tapir_core.comparison.plan import open_comparison
    from tapir_core.comparison.results import ResultsFolder
    from tapir_core.reporting.arms_report import arms_card, arms_plots_card, write_arms
    from tasks.ingredients import gather_files

    plan = open_comparison(spec, overrides or [])
    chosen = plan.choose([each for each in only.split(",") if each], _numbers(run_seeds))
    check_arms(plan)
    there = ResultsFolder(results, plan, gather_files) if results else None
    with ExitStack() as servers:

        @cache
        def connect() -> None:
            from flows.commands.server import connect_prefect

            _say("connecting to Prefect")
            server = connect_prefect(RunRef(plan.root, COMPARE_PLACE))
            _say(f"Prefect UI {servers.enter_context(server)} while it runs")

        engines = _Engines(connect, errors if markdown else console)
        failed = run_comparison(plan, chosen, engines, say=_say, results=there)
        compared = read_comparison(plan, there)
        page = write_arms(compared, plan.root) if compared.rows else None
        if connect.cache_info().currsize and compared.rows:
            from flows.show_arms import show_arms

            show_arms(compared.name, arms_card(compared), arms_plots_card(compared))
    if page is None:
        console.print("nothing is finished yet, so there is nothing to compare", highlight=False)
    elif markdown:
        typer.echo(arms_card(compared), nl=False)
    else:
        _print(compared, page)
    if failed:
        told = [f"{each.run}: {each.message}" for each in failed]
        capped = any(issubclass(each.kind, BudgetReached) for each in failed)
        raise (BudgetReached if capped else TapirError)("\n".join([f"{len(failed)} runs are not finished:", *told]))


class _Engines:
    """The real ones, shown on the terminal; Prefect is there from the first thing that needs it."""

    def __init__(self, connect: Callable[[], None], shown_on: Console) -> None:
        self._connect, self._shown_on = connect, shown_on

    def distil(self, run: RunFolder, until: str | None) -> None:
        """Distil it with the live display."""
        from tapir_core.estimate.run import save_estimate

        save_estimate(run)
        self._connect()
        from flows.commands.distil import distil_shown

        distil_shown(run, self._shown_on, until)

    def count(self, run: RunFolder, number: int) -> "Training":
        """What the training of a round will come to."""
        self._connect()
        from tapir_core.comparison.outcome import Training
        from tasks.train import count_round

        found = count_round(run, number)
        return Training(found.examples, found.total_tokens, found.trained_tokens, found.steps, found.epochs)


def _print(compared: "ComparedArms", page: str) -> None:
    from flows.commands.terminal import print_table
    from tapir_core.comparison.verdict import covers_sentence, verdicts
    from tapir_core.reporting.arms_tables import narrow_tables

    for table in narrow_tables(compared):
        print_table(console, table, wrap=True)
    for sentence in (*verdicts(compared), covers_sentence(compared), f"page: {page}"):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _numbers(listed: str) -> list[int]:
    try:
        return [int(each) for each in listed.split(",") if each]
    except ValueError as error:
        raise ConfigError(f"--run-seeds {listed}: write numbers with commas between, such as 1,2") from error


def _say(line: str) -> None:
    errors.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
