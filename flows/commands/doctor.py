"""`tapir doctor`: every part that a run needs, what was found of it, and the remedy for each fault. Mends nothing."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.commands import AsJson, Overrides, console
from flows.commands.diagnosis import Finding, examine
from flows.commands.diagnosis.run import machine_checks, read_run, root_checks, run_checks
from flows.commands.diagnosis.server import server_check, server_parts
from flows.commands.diagnosis.trial import Trial, try_roles
from flows.driver import read_config
from tapir_core.calls import Answer
from tapir_core.errors import ConfigError
from tapir_core.text import shorten

_LONGEST = 400
"""Characters of a prompt or reply that are shown."""
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
        faults = sum(_print_trial(each) for each in _trials(config, overrides or []))
        raise typer.Exit(int(faults > 0))
    found = diagnose(config, overrides or [], root)
    if as_json:
        typer.echo(findings_json(found))
    else:
        print_findings(console, found)
    raise typer.Exit(int(any(each.level == "fault" for each in found)))


def _trials(config: Path, overrides: Sequence[str]) -> Iterator[Trial]:
    return try_roles(read_config(config, overrides), say=lambda line: console.print(line, highlight=False))


def _print_trial(trial: Trial) -> bool:
    """What was sent, what came, what was read of it; whether something is at fault."""
    sent = {name: value for name, value in trial.sent.items() if name != "messages"}
    prompt, outcome = trial.sent["messages"][-1]["content"], trial.outcome
    console.print(Text(f"{trial.role} · {trial.field}", style="bold"))
    rows = {"sent": json.dumps(sent, ensure_ascii=False), "prompt": shorten(prompt, _LONGEST)}
    if isinstance(outcome, Answer):
        cost = f"{outcome.prompt_tokens} + {outcome.completion_tokens} tokens, {outcome.usd:.6f} USD"
        rows["came"] = shorten(outcome.text, _LONGEST)
        rows["ended"] = f"{outcome.finish_reason}; {cost}, {trial.seconds:.1f} s"
    if trial.read:
        rows["read"] = shorten(trial.read, _LONGEST)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 1))
    for name, said in rows.items():
        table.add_row(Text(name, style="dim"), Text(said))
    if trial.fault:
        table.add_row(Text("fault", style=_STYLES["fault"]), Text(trial.fault))
    console.print(table)
    return bool(trial.fault)


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
    found = {"faults": _count(findings, "fault"), "findings": [asdict(each) for each in findings]}
    return json.dumps(found, indent=1, ensure_ascii=False)


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """A row for each part; the remedy stands below what it mends."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in findings:
        said = Text(each.found)
        if each.remedy:
            said.append(f"\n→ {each.remedy}", style="bold")
        table.add_row(Text(each.level, style=_STYLES[each.level]), each.part, said)
    console.print(table)
    console.print(f"\nfaults {_count(findings, 'fault')} · warnings {_count(findings, 'warning')}", highlight=False)


def _count(findings: Sequence[Finding], level: str) -> int:
    return sum(each.level == level for each in findings)
