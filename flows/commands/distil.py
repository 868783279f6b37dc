"""An open run, distilled in this process and shown on the terminal while it works.

Prefect is imported when it begins, for by then its server is settled.
"""

from rich.console import Console

from flows.commands.prefect_process import TAG
from flows.commands.terminal import LiveDisplay, Snapshot
from tapir_core.run_folder import RunFolder
from tasks.runtime import current

__all__ = ["distil_shown"]


def distil_shown(run: RunFolder, console: Console, until: str | None = None) -> None:
    """Distil ``run`` to the end, or ``until`` a stage holds, with the live display."""
    from prefect import tags

    from flows.distill import distill

    runtime = current(run)
    with (
        tags(TAG, f"run-{run.ref.name}"),
        LiveDisplay(lambda: Snapshot(runtime.progress.stages(), runtime.calls.spend()), console),
    ):
        distill(run.ref, until)
