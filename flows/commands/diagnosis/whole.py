"""All checks of one command, in the order in which they are told."""

from collections.abc import Sequence
from pathlib import Path

from flows.commands.diagnosis.finding import Finding, examine
from flows.commands.diagnosis.machine import machine_checks
from flows.commands.diagnosis.orchestration import server_check, server_parts
from flows.commands.diagnosis.root import root_checks
from flows.commands.diagnosis.run import read_run, run_checks

__all__ = ["diagnose"]


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
