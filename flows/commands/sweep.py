"""`tapir sweep`: what the deployment *sweep-backbones* does, on this terminal. `tapir side-by-side`: runs in tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands import Root, console, print_line, print_table, say
from tapir_core.errors import TapirError
from tapir_core.paths import BACKBONES, SIDE_BY_SIDE, SWEEP_PLACE

if TYPE_CHECKING:
    from tapir_core.reporting.side_by_side import SideBySide

__all__ = ["side_by_side", "sweep"]


def sweep(
    config: Annotated[
        Path | None, typer.Argument(help="The curriculum; the one that the list names when left out.")
    ] = None,
    backbones: Annotated[Path, typer.Option(help="TOML file that lists them.")] = Path(BACKBONES),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Replace a value for all of them.")
    ] = None,
) -> None:
    """Distil every backbone of a list that has no finished run of a curriculum; then put them side by side."""
    from flows.commands.live import connect_when_needed, distil_shown
    from flows.sweep import open_sweep, run_sweep
    from tapir_core.reporting.side_by_side import write_sweep_report
    from tapir_core.run_folder import RunFolder, RunRef
    from tapir_core.sweep import sweep_sentence

    planned = open_sweep(backbones, config, overrides or [])
    with connect_when_needed(RunRef(planned.curriculum.root, SWEEP_PLACE)) as connect:

        def distil(run: RunFolder) -> None:
            connect()
            distil_shown(run, console)

        swept = run_sweep(planned, distil, say=say)
    if (written := write_sweep_report(planned.curriculum, swept)) is not None:
        _print_side_by_side(*written)
    said = sweep_sentence(swept)
    if not all(each.is_well for each in swept):
        raise TapirError(said)
    print_line(console, said)


def side_by_side(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names of runs.", show_default=False)],
    root: Root = "runs",
) -> None:
    """Put runs with the same held-out set side by side: accuracy, benchmarks, paired differences, cost."""
    from tapir_core.reporting.side_by_side import put_side_by_side, write_side_by_side
    from tapir_core.run_folder import RunFolder, RunRef

    shown = put_side_by_side([RunFolder(RunRef(root, name)) for name in names])
    _print_side_by_side(shown, write_side_by_side(shown, root, SIDE_BY_SIDE))


def _print_side_by_side(shown: "SideBySide", report: str) -> None:
    """The tables, and where the page is."""
    from tapir_core.reporting.side_by_side import side_by_side_tables

    for table in (*side_by_side_tables(shown).values(), *shown.benchmarks, shown.paired):
        if table.rows:
            print_table(console, table)
    print_line(console, f"report: {report}")
