"""`tapir doctor`: every part that a run needs, what was found of it, and the remedy for each fault. Mends nothing."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from flows.commands import AsJson, Overrides, console
from flows.commands.diagnosis import Finding, examine
from flows.commands.diagnosis.run import machine_checks, read_run, root_checks, run_checks
from flows.commands.diagnosis.server import server_check, server_parts
from flows.commands.diagnosis.trial import Trial, try_roles
from flows.driver import read_config
from tapir_core.errors import ConfigError

_STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def doctor(
    config: Annotated[Path | None, typer.Argument(help="TOML file; what it needs is checked too.")] = None,
    root: Annotated[
        str | None, typer.Option(help="Folder of all runs; the configuration's, or `runs`, when left out.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    attempt: Annotated[
        bool, typer.Option("--try", help="Ask teacher and judges once in each role, paid, and show what comes.")
    ] = False,
) -> None:
    """`tapir doctor`."""
    if (overrides or attempt) and config is None:
        asks = "--try asks whom a" if attempt else "--set replaces a value of a"
        raise ConfigError(f"{asks} configuration names; name its file: `tapir doctor CONFIG …`")
    if attempt:
        assert config is not None
        trials = try_roles(read_config(config, overrides or []), say=partial(console.print, highlight=False))
        raise typer.Exit(min(1, sum(map(_print_trial, trials))))
    found = diagnose(config, overrides or [], root)
    if as_json:
        typer.echo(findings_json(found))
    else:
        print_findings(console, found)
    raise typer.Exit(int(any(each.level == "fault" for each in found)))


def _print_trial(trial: Trial) -> bool:
    """What was sent, what came, what was read of it; whether something is at fault."""
    console.print(Text(f"{trial.role} · {trial.field}", style="bold"))
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 1))
    for name, said in trial.shown.items():
        table.add_row(Text(name, style=_STYLES.get(name, "dim")), Text(said))
    console.print(table)
    return "fault" in trial.shown


def diagnose(config: str | Path | None, overrides: Sequence[str] = (), root: str | None = None) -> list[Finding]:
    """Look at every part of this machine and root, and at what a configuration needs, if one is given.

    Args:
        config: A TOML file.
        overrides: Its `section.field=value`.
        root: Folder of all runs; the configuration's where left out, and ``runs`` without one.
    """
    read, said = (None, []) if config is None else read_run(config, overrides)
    place = root or (read.run.root if read else "runs")
    *found, server = examine(
        [
            *machine_checks(read.student.engine if read else None),
            *root_checks(place, read.calls.store_url if read else None),
            *(run_checks(read, place) if read else []),
            server_check(place),
        ]
    )
    # What is on a server is only asked of one that answers.
    parts = [] if server.level == "fault" else examine(server_parts(place))
    return [*said, *found, server, *parts]


def findings_json(findings: Sequence[Finding]) -> str:
    """The findings as one JSON object."""
    faults = sum(each.level == "fault" for each in findings)
    return json.dumps({"faults": faults, "findings": [asdict(each) for each in findings]}, indent=1, ensure_ascii=False)


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """A row for each part; the remedy stands below what it mends."""
    columns = Column(no_wrap=True), Column(no_wrap=True), Column(overflow="fold")
    table = Table(*columns, box=None, show_header=False, padding=(0, 2, 0, 0))
    for each in findings:
        said = Text.assemble(each.found, (f"\n→ {each.remedy}" if each.remedy else "", "bold"))
        table.add_row(Text(each.level, style=_STYLES[each.level]), each.part, said)
    console.print(table)
    levels = Counter(each.level for each in findings)
    console.print(f"\nfaults {levels['fault']} · warnings {levels['warning']}", highlight=False)
