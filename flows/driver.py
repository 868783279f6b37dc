"""One drive of a run: check everything, hold the run's lease, open its folder, connect to Prefect.

The order is the order in which things may fail: what costs nothing to check comes first.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.interrupts import prompt_interrupts
from flows.server import connect_prefect
from tapir_core.calls import RunLease
from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config, missing_prerequisites
from tapir_core.errors import ConfigError, MissingPrerequisite
from tapir_core.run_folder import RunFolder, open_run
from tasks.ingredients import gather_ingredients
from tasks.runtime import Runtime, close_all, current, store_url

__all__ = ["Drive", "Say", "check", "drive"]

Say = Callable[[str], None]
"""Tells the user what is going on, a line at a time."""


@dataclass(frozen=True, slots=True)
class Drive:
    """A run under way in this process."""

    run: RunFolder
    runtime: Runtime
    address: str
    """Of the Prefect UI."""


def check(config: RunConfig, *, source: str) -> None:
    """Find what a valid configuration still gets wrong, before anything starts.

    Raises:
        ConfigError: files, folders or fields are wrong; every one of them.
        MissingPrerequisite: a key, an engine environment or a package is not there.
    """
    problems = check_config(config)
    if problems:
        raise ConfigError(problems, source=source)
    lacking = missing_prerequisites(config, os.environ)
    if lacking:
        raise MissingPrerequisite("\n".join(lacking))


@contextmanager
def drive(config: RunConfig, *, say: Say, amend: bool = False) -> Iterator[Drive]:
    """Hold the run for the block; its children and its own Prefect server end with it.

    Raises:
        RunBusy: another process drives the run.
        RunChanged: the folder belongs to another configuration, and `amend` is not set.
    """
    with RunLease(store_url(config), f"{Path(config.run.root).absolute()}/{config.run.name}") as lease:
        say(f"preparing {config.student.backbone}")
        run = open_run(config, gather_ingredients(config), amend=amend)
        say("connecting to Prefect")
        with connect_prefect(run.ref) as address:
            runtime = current(run)
            runtime.lease = lease
            try:
                with prompt_interrupts():
                    yield Drive(run, runtime, address)
            finally:
                close_all()
