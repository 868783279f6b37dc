"""The deployment *sweep-backbones*: what its form asks for, then the same steps as `tapir sweep`."""

import json
from typing import Annotated, Any

from prefect import get_run_logger, tags
from prefect.states import Completed, Failed
from pydantic import Field

from flows.commands.prefect_process import TAG
from flows.distill import distill
from flows.driver import worker_root
from flows.forms.form import Overrides, shown, tag_flow_run
from flows.forms.machine import machine_to_distil
from flows.running.project_flow import project_flow
from flows.running.suspension import heed_suspension
from flows.sweep import open_sweep, run_sweep
from tapir_core.errors import TapirError
from tapir_core.paths import BACKBONES
from tapir_core.reporting.side_by_side_report import write_sweep_report
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.sweep import sweep_sentence
from tasks.artifacts import publish_sweep

__all__ = ["distil_child", "sweep_from_form"]


@project_flow("sweep-backbones", run_name="sweep-{backbones}")
def sweep_from_form(
    backbones: Annotated[str, Field(min_length=1), shown("List of backbones")] = BACKBONES,
    config_file: Annotated[str, shown("Configuration file")] = "",
    overrides: Overrides = (),
) -> Any:
    """Distil every backbone of a list that has no finished run of a curriculum, and put them side by side.

    Args:
        backbones: The TOML file on the worker that lists them; `tapir backbone add` adds to it.
        config_file: The curriculum, a TOML file on the worker. Empty: the one that the list names.
        overrides: Settings for every backbone, one `section.field=value` each, such as `run.rounds=2`. What a backbone
            sets itself wins over them.
    """
    log = get_run_logger()
    try:
        root = f"run.root={json.dumps(worker_root())}"
        sweep = open_sweep(backbones, config_file or None, [root, *overrides])
        tag_flow_run(f"sweep-{sweep.curriculum.name}")
        with heed_suspension(lambda: "Backbones that are done stay done."):
            swept = run_sweep(sweep, _distil_apart, say=log.info)
        written = write_sweep_report(sweep.curriculum, swept)
    except TapirError as error:
        log.error("%s", error)
        return Failed(message=str(error))
    if written is not None:
        publish_sweep(sweep.curriculum.name, *written)
    failed = not all(each.is_well for each in swept)
    return (Failed if failed else Completed)(message=sweep_sentence(swept))


def _distil_apart(run: RunFolder) -> None:
    """Distil in a flow run of its own below the sweep's, once the machine is free."""
    with machine_to_distil(run.config), tags(TAG, f"run-{run.ref.name}"):
        distil_child(run.ref)


@project_flow("distill", run_name="{ref.name}", child=True)
def distil_child(ref: RunRef) -> Any:
    """*distill* as a child of a sweep."""
    return distill.fn(ref)
