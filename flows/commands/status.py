"""`tapir status`: how far runs are, read from their folders alone."""

from rich.console import Console
from rich.table import Table

from flows.commands.tables import print_table
from tapir_core.data.dataset import DatasetRef
from tapir_core.errors import ConfigError, TapirError
from tapir_core.paths import BACKBONE, RUN_RECORD
from tapir_core.reporting.benchmark_states import benchmark_states_tables
from tapir_core.reporting.look import Look
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt, plan
from tapir_core.storage import Storage

__all__ = ["print_runs", "print_status"]


def print_runs(console: Console, root: str) -> None:
    """One line for each run of a root.

    Raises:
        ConfigError: there is none.
    """
    storage = Storage(root)
    names = [name for name in storage.names("") if storage.exists(f"{name}/{RUN_RECORD}")]
    if not names:
        raise ConfigError(f"there is no run in {root!r}; start one with `tapir run configs/quickstart.toml`")
    table = Table("run", "created", "stages", "next", box=None, header_style="bold")
    for name in names:
        run = RunFolder(RunRef(root, name))
        try:
            stages = _stages(run)
        except (TapirError, ValueError, TypeError) as exc:
            table.add_row(name, "", "", f"cannot be read: {str(exc).splitlines()[0]}")
            continue
        waiting = [at for at, rows in stages if rows is None]
        done = f"{len(stages) - len(waiting)}/{len(stages)}"
        table.add_row(name, run.record.created[:19], done, str(waiting[0]) if waiting else "done")
    console.print(table)


def print_status(console: Console, ref: RunRef) -> None:
    """Every stage of a run, with the rows that it holds, what it goes on without, and its seconds; its benchmarks."""
    run = RunFolder(ref)
    table = Table("round", "stage", "rows", "missing", "seconds", box=None, header_style="bold")
    place = None
    for at, rows in _stages(run):
        manifest = run.manifest(at) if rows is not None else None
        missing = sum(manifest.accepted_missing.values()) if manifest else 0
        seconds = f"{manifest.counts.get('seconds', 0):.1f}" if manifest else ""
        here = "" if at.round is None else "backbone" if at.round == BACKBONE else str(at.round)
        table.add_row(
            "" if here == place else here,
            f"{at.name} {at.benchmark}" if at.benchmark else at.name,
            "–" if rows is None else str(rows),
            str(missing) if missing else "",
            seconds,
            style="dim" if rows is None else None,
        )
        place = here
    console.print(f"run {ref.name} in {ref.root}, created {run.record.created[:19]}", highlight=False)
    console.print(table)
    if benchmarks := benchmark_states_tables(Look(run)):
        console.print()
    for benchmark in benchmarks:
        print_table(console, benchmark)


def _stages(run: RunFolder) -> list[tuple[StageAt, int | None]]:
    seen: dict[StageAt, DatasetRef | None] = {}
    held = [(at, run.holds(at, seen)) for at in plan(run.config)]
    return [(at, ref.rows if ref else None) for at, ref in held]
