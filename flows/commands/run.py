"""Commands that drive one run: `tapir estimate`, `run`, `retry-judge`."""

from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from flows import driver, whole_run
from flows.commands import terminal
from flows.commands.live import print_summary, shown_flows
from tapir_core import errors, paths, run_folder
from tapir_core.config import RunConfig, load
from tapir_core.estimate.run import Estimate, estimate_json, estimate_run
from tapir_core.reporting import estimate_table
from tapir_core.summary import require_figures
from tasks.engines import backbone, machine
from tasks.engines.training import prerequisites


def estimate(
    config: terminal.ConfigPath,
    overrides: terminal.Overrides = None,
    sample: Annotated[int, typer.Option(min=1, help="Instructions that are put into the real prompts.")] = 200,
    as_json: terminal.AsJson = False,
) -> None:
    """`tapir estimate`."""
    settings = load.load_config(config, overrides or [])
    found = estimate_run(settings, source=str(config), sample=sample, gpus=len(machine.gpu_memory()))
    if as_json:
        typer.echo(estimate_json(found), nl=False)
        return
    print_estimate(terminal.console, found)
    terminal.print_lines(terminal.console, *memory_lines(settings))


def memory_lines(config: RunConfig) -> list[str]:
    """What training takes of this machine's memory, where it trains and the backbone is here."""
    if config.training.runs_on == "worker":
        return []
    try:
        folder = backbone.find_backbone(config.student, backbone.cache_of(config.run.root))
        return [f"Training memory: {line}" for line in prerequisites.look_ahead(config, folder)] if folder else []
    except errors.TapirError as lacks:
        return [f"Training memory: {lacks}"]


def print_estimate(console: Console, estimate: Estimate) -> None:
    """The tables, who has no price, and what the figures rest on."""
    terminal.print_tables(console, estimate_table.stage_table(estimate), estimate_table.objective_table(estimate))
    unpriced = (f"No price: {each}" for each in estimate.unknown_prices)
    for warning in (*unpriced, *(f"data.pool: {each}" for each in estimate.notes)):
        console.print(warning, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if instead := estimate_table.instead_sentence(estimate):
        terminal.print_lines(console, instead)
    console.print("Assumptions", style="bold")
    terminal.print_lines(console, *(f"- {each}" for each in estimate.assumptions))


def run(
    config: terminal.ConfigPath,
    name: Annotated[str | None, typer.Option(help="Name of the run, instead of the file's.")] = None,
    overrides: terminal.Overrides = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Go no further than this stage: judge (of round 1), judge@2, train@0."),
    ] = None,
    amend: Annotated[
        bool, typer.Option(help="Redo what a changed file, setting or version of tapir changes; keep the rest.")
    ] = False,
) -> None:
    """`tapir run`."""
    settings = driver.read_config(config, overrides or [], name, until=until, say=terminal.say)
    with shown_flows(run_folder.RunRef(settings.run.root, settings.run.name), terminal.console) as shown:
        summary = whole_run.drive(settings, partial(shown.do, "distil"), say=terminal.say, until=until, amend=amend)
    print_summary(terminal.console, summary)
    if settings.curriculum.task_types == "discover" and until is None:
        file = f"{settings.run.root}/{settings.run.name}/{paths.TASK_TYPES}"
        terminal.say(
            f"The teacher's task types are in {file}: edit them, then go on with the same command and\n"
            f"  --amend --set curriculum.task_types={file}\n"
            "or put the table into the configuration, and give the command with --amend."
        )
    else:
        require_figures(summary)


def retry_judge(
    name: terminal.RunName,
    round_number: Annotated[int | None, typer.Option("--round", help="One round; all when left out.")] = None,
    also: Annotated[
        terminal.Also,
        typer.Option(metavar="terminal", help="`terminal`: ask unscored verdicts again too, at full price."),
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Redo the stages that change, and go on to the end.")
    ] = False,
    root: terminal.Root = "runs",
) -> None:
    """`tapir retry-judge`."""
    ref = terminal.run_ref(name, root)
    with shown_flows(ref, terminal.console) as shown:
        tell = partial(terminal.print_lines, terminal.console)
        whole_run.retry_run(
            ref, round_number, shown.do, tell, say=terminal.say, also_terminal=also is not None, go_on=go_on
        )
