"""`tapir sweep`: what the deployment *sweep-backbones* does, in this process and on this terminal."""

from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.lines import console, print_line, say
from tapir_core.errors import TapirError
from tapir_core.paths import BACKBONES, SWEEP_PLACE

__all__ = ["sweep"]


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
    from flows.commands.distil import distil_shown
    from flows.commands.server import connect_prefect
    from flows.commands.side_by_side import print_side_by_side
    from flows.sweep import open_sweep, run_sweep
    from tapir_core.reporting.side_by_side_report import write_sweep_report
    from tapir_core.run_folder import RunFolder, RunRef
    from tapir_core.sweep import sweep_sentence

    planned = open_sweep(backbones, config, overrides or [])
    with ExitStack() as servers:

        @cache
        def connect() -> None:
            say("connecting to Prefect")
            server = connect_prefect(RunRef(planned.curriculum.root, SWEEP_PLACE))
            say(f"Prefect UI {servers.enter_context(server)} while it runs")

        def distil(run: RunFolder) -> None:
            connect()
            distil_shown(run, console)

        swept = run_sweep(planned, distil, say=say)
    if (written := write_sweep_report(planned.curriculum, swept)) is not None:
        print_side_by_side(console, *written)
    said = sweep_sentence(swept)
    if not all(each.is_well for each in swept):
        raise TapirError(said)
    print_line(console, said)
