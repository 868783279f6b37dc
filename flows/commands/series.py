"""Commands that work on many runs, one after another: `tapir sweep`, `compare`, `side-by-side`, `backbone add`."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows import series, whole_run
from flows.commands import live, terminal
from flows.prefect_server.server import enter_server, ignore_settings, standing_server
from tapir_core import paths, run_state
from tapir_core.comparison import figures, matching, trial
from tapir_core.config import load, presets
from tapir_core.errors import BudgetReached, ConfigError, MissingPrerequisite, TapirError
from tapir_core.estimate.run import estimate_run, sum_usd
from tapir_core.reporting import arms_report, estimate_table
from tapir_core.reporting.side_by_side import (
    SideBySide,
    put_side_by_side,
    side_by_side_tables,
    write_side_by_side,
)
from tapir_core.run_folder import RunFolder, RunRef
from tasks.engines import machine

REGISTERED = "tapir.backbone.registered"
"""The event on which deployments/prefect.yaml starts a sweep."""

OverridesOfAll = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Replace a value for all of them.")
]


def compare(
    spec: Annotated[
        Path, typer.Argument(help="TOML file that says what is compared; configs/compare_*.toml.", show_default=False)
    ],
    only: Annotated[str, typer.Option(metavar="ARM[,ARM]", help="Run these arms, and what they are matched to.")] = "",
    run_seeds: Annotated[str, typer.Option(metavar="N[,N]", help="Run these run seeds.")] = "",
    overrides: OverridesOfAll = None,
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
    """`tapir compare`."""
    asked = series.read_asked(spec, overrides or [], only=only, run_seeds=run_seeds, results=results, show=show)
    with live.shown_flows(
        RunRef(asked.plan.root, paths.COMPARE_PLACE), terminal.errors if markdown else terminal.console
    ) as shown:
        if not series.finish_comparison(
            asked, _drive(shown), partial(_show, markdown=markdown), say=terminal.say, keep=not show
        ):
            terminal.console.print("nothing is finished yet, so there is nothing to compare", highlight=False)


def _show(compared: figures.ComparedArms, page: str, *, markdown: bool) -> str:
    """Print the tables, or the card alone; gives the card."""
    card = arms_report.arms_card(compared)
    if markdown:
        typer.echo(card, nl=False)
        return card
    terminal.print_tables(terminal.console, *arms_report.narrow_tables(compared))
    terminal.print_lines(
        terminal.console, *figures.verdicts(compared), figures.covers_sentence(compared), f"page: {page}"
    )
    return card


def sweep(
    config: Annotated[
        Path | None, typer.Argument(help="The curriculum; the one that the list names when left out.")
    ] = None,
    backbones: Annotated[Path, typer.Option(help="TOML file that lists them.")] = Path(paths.BACKBONES),
    overrides: OverridesOfAll = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Run nothing: say what all of them will take together.")
    ] = False,
) -> None:
    """`tapir sweep`."""
    planned = series.open_sweep(backbones, config, overrides or [])
    if estimate:
        terminal.print_tables(
            terminal.console, estimate_table.sweep_table(series.estimate_sweep(planned, len(machine.gpu_memory())))
        )
        return
    with live.shown_flows(RunRef(planned.curriculum.root, paths.SWEEP_PLACE), terminal.console) as shown:
        swept = series.finish_sweep(planned, partial(shown.do, "distil"), _print_side_by_side, say=terminal.say)
    said = run_state.sweep_sentence(swept)
    if not all(each.is_well for each in swept):
        raise BudgetReached(said) if swept[-1].outcome == "stopped by a cap" else TapirError(said)
    terminal.print_lines(terminal.console, said)


def plan(
    config: terminal.ConfigPath,
    overrides: terminal.Overrides = None,
    rows: Annotated[int, typer.Option("--trial", min=30, help="Instructions of the pool that it is tried on.")] = 300,
    estimate: Annotated[bool, typer.Option("--estimate", help="Run nothing: say what the trial will take.")] = False,
) -> None:
    """`tapir plan`."""
    settings, gpus = load.load_config(config, overrides or []), len(machine.gpu_memory())
    planned, lacking = series.plan_trial(settings, rows)
    plain = estimate_run(trial.method_config(settings, trial.PLAIN), source=trial.PLAIN, gpus=gpus)
    if rows > (there := plain.pool_rows):
        raise ConfigError(f"--trial {rows}: the pool has {there} instructions; give at most so many, or a larger pool")
    whole = {
        method: plain
        if method == trial.PLAIN
        else estimate_run(trial.method_config(settings, method, there), source=method, gpus=gpus)
        for method in planned
    }
    trials = {method: estimate_run(each, source=method, gpus=gpus) for method, each in planned.items()}
    asked = {method: each.charged.needed.calls.likely for method, each in trials.items()}
    if "answers" in asked and asked["answers"] <= asked[trial.PLAIN]:
        lacking["answers"] = "the pool brings all answers, and the teacher is asked for no more"
        del planned["answers"], trials["answers"], whole["answers"]
    total = sum_usd(trials)
    terminal.print_tables(terminal.console, estimate_table.methods_table(trials, whole, lacking))
    if estimate:
        return
    if unknown := [each for one in trials.values() for each in one.unknown_prices]:
        raise ConfigError(f"methods are compared, and capped, by USD: {unknown[0]}")
    with live.shown_flows(RunRef(settings.run.root, paths.SWEEP_PLACE), terminal.console) as shown:
        gains = series.finish_trial(
            planned, total.high if total else 0.0, partial(shown.do, "distil"), say=terminal.say
        )
    terminal.print_tables(terminal.console, estimate_table.gains_table(gains))
    method, why = trial.choose(gains)
    terminal.print_lines(terminal.console, why)
    if method:
        chosen = config.with_name(f"{config.stem}-{method}.toml")
        if chosen.exists():
            raise ConfigError(f"{chosen} is there already; move it away and run the same command again")
        spelled = load.rounds_setting(settings)
        chosen.write_text(
            load.written(config, [*(overrides or []), spelled, *trial.settings_of(settings, method, there)])
        )
        terminal.print_lines(terminal.console, f"configuration: {chosen}")


def side_by_side(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs.", show_default=False)],
    root: terminal.Root = "runs",
) -> None:
    """`tapir side-by-side`."""
    shown = put_side_by_side([RunFolder(terminal.run_ref(name, root)) for name in names])
    _print_side_by_side(shown, write_side_by_side(shown, root, paths.SIDE_BY_SIDE))


backbone_app = typer.Typer(no_args_is_help=True)


@backbone_app.callback()
def _group() -> None:
    """Keeps `add` a word of its own: typer takes a group's only command for the group."""


@backbone_app.command()
def add(
    name: Annotated[str, typer.Argument(help="What it is called; its run is named after it.", show_default=False)],
    backbone: Annotated[str, typer.Argument(help="Model folder, hub id or embedded student.", show_default=False)],
    template: Annotated[str | None, typer.Option(help="Jinja file that replaces its own chat template.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of its training: auto, bf16 or fp32.")] = None,
    file: Annotated[Path, typer.Option(help="TOML file that lists the backbones.")] = Path(paths.BACKBONES),
    root: Annotated[str, typer.Option(help="Folder of all runs, whose server is told.")] = "runs",
) -> None:
    """Add a backbone to the list and tell Prefect, which starts a sweep where sweep-backbones is deployed."""
    fields = {"name": name, "backbone": backbone, "chat_template": template, "precision": precision}
    entry = presets.add_backbone(file, {field: value for field, value in fields.items() if value is not None})
    terminal.console.print(f"added {entry.name} to {file}", markup=False, highlight=False)
    try:
        api = standing_server(root)
    except MissingPrerequisite as missing:
        terminal.errors.print(
            f"no sweep was started: {missing}; `tapir sweep` starts one", markup=False, highlight=False
        )
        return
    announce(api, root, entry, file)
    terminal.console.print(f"told {api}: {REGISTERED}", markup=False, highlight=False)


def announce(api: str, root: str, entry: presets.BackboneEntry, file: Path) -> None:
    """Send the event that a backbone was added, and wait until the server has it.

    Args:
        api: URL of the server's API.
        root: Prefect's own files of this process go below it.
        entry: The new backbone.
        file: The list that it was added to.
    """
    ignore_settings(root, terminal.say)
    enter_server(api, root)
    # Not before: Prefect reads its settings when it is imported.
    from prefect.events import Event, Resource
    from prefect.events.clients import PrefectEventsClient

    resource = {
        "prefect.resource.id": f"tapir.backbone.{entry.name}",
        "prefect.resource.name": entry.name,
        "tapir.backbone": entry.backbone,
        "tapir.file": str(file),
    }

    async def send() -> None:
        # The client of the library's own events would send later, from a thread, and swallow what goes wrong.
        async with PrefectEventsClient(api, checkpoint_every=1) as client:
            await client.emit(Event(event=REGISTERED, resource=Resource(resource)))

    asyncio.run(send())


def _drive(shown: live.ShownFlows) -> Callable[[matching.MatchedRun], None]:
    """Drives a run of a comparison with the live display."""

    def drive(matched: matching.MatchedRun) -> None:
        shown.connect()
        whole_run.drive_matched(matched, partial(shown.do, "distil"), say=terminal.say)

    return drive


def _print_side_by_side(shown: SideBySide, report: str) -> None:
    """The tables, and where the page is."""
    terminal.print_tables(terminal.console, *side_by_side_tables(shown).values(), *shown.benchmarks, shown.paired)
    terminal.print_lines(terminal.console, f"report: {report}")
