"""What comes before the flow: check everything, hold the run's lease, open its folder, see whether work is left.

The order is the order in which things may fail: what costs nothing to check comes first. The command line and the
deployments begin here alike, so that both refuse the same things in the same words.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flows.until import comes_after, find_stage
from tapir_core.calls import RunLease
from tapir_core.calls.prices import missing_prices
from tapir_core.calls.store.address import run_key, store_url
from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config, missing_prerequisites
from tapir_core.config.load import load_config
from tapir_core.errors import ConfigError, MissingPrerequisite
from tapir_core.paths import ROOT_VARIABLE
from tapir_core.reporting.summary import summarise
from tapir_core.run_folder import RunFolder, RunRef, open_run
from tapir_core.scratch import publish_logs
from tapir_core.storage import Storage
from tasks.ingredients import gather_ingredients
from tasks.runtime import close_all, current

__all__ = ["Say", "hold_known_run", "hold_run", "is_done", "read_config", "run_lease", "worker_root"]

Say = Callable[[str], None]
"""Tells the user what is going on, a line at a time."""


def worker_root() -> str:
    """Folder of all runs of the worker that this process belongs to."""
    return os.environ.get(ROOT_VARIABLE, "runs")


def read_config(
    config: str | Path, overrides: Sequence[str] = (), name: str | None = None, *, until: str | None = None
) -> RunConfig:
    """Read what a run is to be, and find everything that is wrong with it before anything starts.

    Raises:
        ConfigError: fields, files, folders or the stage ``until`` are wrong; every one of them.
        MissingPrerequisite: a key, an engine environment or a package is not there.
    """
    settings = load_config(config, overrides, name)
    if until is not None:
        find_stage(settings, until)
    problems = [*check_config(settings), *missing_prices(settings)]
    if problems:
        raise ConfigError(problems, source=str(config))
    lacking = missing_prerequisites(settings, os.environ)
    if lacking:
        raise MissingPrerequisite("\n".join(lacking))
    return settings


@contextmanager
def hold_run(config: RunConfig, *, say: Say, amend: bool = False) -> Iterator[RunFolder]:
    """Hold the run's lease and open its folder for the block; what the run started in this process ends with it.

    Raises:
        RunBusy: another process drives the run.
        RunChanged: the folder belongs to another configuration, and `amend` is not set.
    """
    # A root that cannot be reached is said before a backbone is converted or fetched.
    Storage(config.run.root).exists("")
    with run_lease(config) as lease:
        say(f"preparing {config.student.backbone}")
        run = open_run(config, gather_ingredients(config), amend=amend)
        try:
            current(run).lease = lease
            yield run
        finally:
            close_all()
            publish_logs(run)


@contextmanager
def hold_known_run(ref: RunRef, *, say: Say) -> Iterator[RunFolder]:
    """Hold and open a run by its own configuration, wherever its folder lies now.

    Raises:
        ConfigError: there is no such run.
        RunBusy: another process drives the run.
    """
    with hold_run(RunFolder(ref).config, say=say) as run:
        yield run


def run_lease(config: RunConfig) -> RunLease:
    """The right to drive the run, under the name that all its drivers know."""
    return RunLease(store_url(config), run_key(config))


def is_done(run: RunFolder, until: str | None) -> bool:
    """Whether nothing is left to do, as far as the user wants to go."""
    following = summarise(run).next_stage
    if following is None or until is None:
        return following is None
    return comes_after(run.config, following, find_stage(run.config, until))
