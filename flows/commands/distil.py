"""An open run at work in this process, shown on the terminal and named in Prefect by its tags.

Prefect is imported when it begins, for by then its server is settled.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from flows.commands.prefect_process import TAG
from flows.commands.terminal import LiveDisplay, Snapshot
from tapir_core.run_folder import RunFolder
from tasks.runtime import current

__all__ = ["distil_shown", "shown_live"]


def distil_shown(run: RunFolder, console: Console, until: str | None = None) -> None:
    """Distil ``run`` to the end, or ``until`` a stage holds, with the live display."""
    from flows.distill import distill

    with shown_live(run, console):
        distill(run.ref, until)


@contextmanager
def shown_live(run: RunFolder, console: Console) -> Iterator[None]:
    """Flow runs of the block carry the run's tags; what they do is shown while they work."""
    from prefect import tags

    runtime = current(run)
    with (
        tags(TAG, f"run-{run.ref.name}"),
        LiveDisplay(lambda: Snapshot(runtime.progress.stages(), runtime.calls.spend()), console),
    ):
        yield
