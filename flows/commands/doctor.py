"""`tapir doctor`: every part that a run needs, what was found of it, and the remedy for each fault. Mends nothing."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tapir_core.errors import ConfigError

if TYPE_CHECKING:
    from flows.commands.diagnosis import Finding

__all__ = ["doctor", "findings_json", "print_findings"]

_STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def doctor(
    config: Annotated[Path | None, typer.Argument(help="TOML file; what it needs is checked too.")] = None,
    root: Annotated[
        str | None, typer.Option(help="Folder of all runs; the configuration's, or `runs`, when left out.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Replace a value.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check every part that a run needs, and say what mends each fault; ends with 1 when there is one."""
    from flows.commands.diagnosis import diagnose

    if overrides and config is None:
        raise ConfigError("--set replaces a value of a configuration; name its file: `tapir doctor CONFIG --set …`")
    found = diagnose(config, overrides or [], root)
    if as_json:
        typer.echo(findings_json(found))
    else:
        print_findings(Console(), found)
    raise typer.Exit(int(any(each.level == "fault" for each in found)))


def findings_json(findings: "Sequence[Finding]") -> str:
    """The findings as one JSON object."""
    rows = [asdict(each) for each in findings]
    return json.dumps({"faults": _count(findings, "fault"), "findings": rows}, indent=1, ensure_ascii=False)


def print_findings(console: Console, findings: "Sequence[Finding]") -> None:
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


def _count(findings: "Sequence[Finding]", level: str) -> int:
    return sum(each.level == level for each in findings)
