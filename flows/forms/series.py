"""The deployments that work on many runs, *compare* and *sweep-backbones*, with the steps of the commands.

Each run is a flow run below the form's, in the same process: they go one after another, and the buttons of the form's
flow run reach the run at work.
"""

import json
from collections.abc import Callable
from typing import Annotated, Any

from prefect import get_run_logger, tags
from prefect.states import Completed, Failed
from pydantic import Field

from flows.arm_run import drive_run
from flows.distill import distill
from flows.driver import worker_root
from flows.forms import (
    Overrides,
    form_flow,
    machine_to_distil,
    preset_file,
    presets,
    shown,
    tag_flow_run,
)
from flows.prefect_server import TAG
from flows.project_flow import heed_suspension, project_flow
from flows.series import (
    not_finished,
    open_sweep,
    read_asked,
    read_comparison,
    run_comparison,
    run_sweep,
)
from tapir_core.comparison.figures import verdicts
from tapir_core.comparison.plan import ComparisonPlan, PlannedRun
from tapir_core.estimate.run import save_estimate
from tapir_core.paths import BACKBONES
from tapir_core.reporting.arms_report import arms_card, arms_plots_card, write_arms
from tapir_core.reporting.side_by_side import write_sweep_report
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.sweep import sweep_sentence
from tasks.artifacts import publish_comparison, publish_sweep
from tasks.train import count_round


@form_flow("compare", run_name="compare")
def compare_from_form(
    preset: Annotated[str, shown("Preset", **presets(comparisons=True))] = "compare_quickstart",
    comparison_file: Annotated[str, shown("Comparison file")] = "",
    only: Annotated[str, shown("Arms")] = "",
    run_seeds: Annotated[str, shown("Run seeds")] = "",
    results: Annotated[str, shown("Results folder")] = "",
    overrides: Overrides = (),
) -> str:
    """Run the arms of a comparison that are not finished, each matched to the reference, and set them side by side.

    Args:
        preset: What is compared: a file `compare_*.toml` of `configs/`. Prefect's own run gets the comparison's name.
        comparison_file: A TOML file of your own on the worker, in place of the preset.
        only: Run these arms, with commas between, and what they are matched to. Empty: all.
        run_seeds: Run these run seeds of the comparison, with commas between. Empty: all.
        results: A folder on the worker for what finished runs came to; none is run that is there already. Empty: none.
        overrides: Settings for all arms, one `section.field=value` each, such as `run.rounds=2`.
    """
    settings = [f"run.root={json.dumps(worker_root())}", *overrides]
    asked = read_asked(
        comparison_file or preset_file(preset), settings, only=only, run_seeds=run_seeds, results=results
    )
    name = asked.plan.comparison.name
    tag_flow_run(f"comparison-{name}", name=name)
    with heed_suspension(lambda: "Runs that are finished stay finished."):
        say = get_run_logger().info
        failed = run_comparison(asked.plan, asked.chosen, _apart(asked.plan), say=say, results=asked.results)
    compared = read_comparison(asked.plan, asked.results, keep=True)
    page = ""
    if compared.rows:
        page = write_arms(compared, asked.plan.root)
        publish_comparison(name, arms_card(compared), arms_plots_card(compared))
    if failed:
        raise not_finished(failed)
    if not page:
        return "Nothing is finished yet, so there is nothing to compare."
    return " ".join([*verdicts(compared), f"Page: {page}"])


def _distil(run: RunFolder, until: str | None) -> None:
    """In the flow run of the run that is worked on."""
    save_estimate(run)
    distill.fn(run.ref, until)


def _apart(plan: ComparisonPlan) -> Callable[[PlannedRun], None]:
    """Drives each run in a flow run of its own below the comparison's, once the machine is free."""

    def drive(planned: PlannedRun) -> None:
        # Made anew for each, for what a flow is given stands on its page.
        @project_flow("distill", run_name="{ref.name}", child=True)
        def drive_child(ref: RunRef) -> None:
            drive_run(plan, planned, _distil, count_round, say=get_run_logger().info)

        with machine_to_distil(plan.config(planned)), tags(TAG, f"run-{planned.ref.name}"):
            drive_child(planned.ref)

    return drive


@form_flow("sweep-backbones", run_name="sweep-{backbones}")
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
    root = f"run.root={json.dumps(worker_root())}"
    sweep = open_sweep(backbones, config_file or None, [root, *overrides])
    tag_flow_run(f"sweep-{sweep.curriculum.name}")
    with heed_suspension(lambda: "Backbones that are done stay done."):
        swept = run_sweep(sweep, _distil_apart, say=get_run_logger().info)
    written = write_sweep_report(sweep.curriculum, swept)
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
