"""What comes before the flow: check everything, hold the run's lease, open its folder, see whether work is left.

The order is the order in which things may fail: what costs nothing to check comes first.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.until import comes_after
from tapir_core.calls import RunLease
from tapir_core.calls.prices import missing_prices
from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config, missing_prerequisites
from tapir_core.errors import ConfigError, MissingPrerequisite
from tapir_core.reporting.summary import summarise
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.stages import StageAt
from tasks.ingredients import gather_ingredients
from tasks.runtime import close_all, current, store_url

__all__ = ["Say", "check", "hold_run", "is_done"]

Say = Callable[[str], None]
"""Tells the user what is going on, a line at a time."""


def check(config: RunConfig, *, source: str) -> None:
    """Find what a valid configuration still gets wrong, before anything starts.

    Raises:
        ConfigError: files, folders or fields are wrong; every one of them.
        MissingPrerequisite: a key, an engine environment or a package is not there.
    """
    problems = [*check_config(config), *missing_prices(config)]
    if problems:
        raise ConfigError(problems, source=source)
    lacking = missing_prerequisites(config, os.environ)
    if lacking:
        raise MissingPrerequisite("\n".join(lacking))


@contextmanager
def hold_run(config: RunConfig, *, say: Say, amend: bool = False) -> Iterator[RunFolder]:
    """Hold the run's lease and open its folder for the block; what the run started in this process ends with it.

    Raises:
        RunBusy: another process drives the run.
        RunChanged: the folder belongs to another configuration, and `amend` is not set.
    """
    with RunLease(store_url(config), f"{Path(config.run.root).absolute()}/{config.run.name}") as lease:
        say(f"preparing {config.student.backbone}")
        run = open_run(config, gather_ingredients(config), amend=amend)
        try:
            current(run).lease = lease
            yield run
        finally:
            close_all()


def is_done(run: RunFolder, until: StageAt | None) -> bool:
    """Whether nothing is left to do, as far as the user wants to go."""
    following = summarise(run).next_stage
    return following is None or (until is not None and comes_after(run.config, following, until))
