"""The deployment *compare*: what its form asks for, then the same steps as `tapir compare`.

Each run of the comparison is a flow run below the comparison's, in the same process: they go one after another, and the
buttons of the comparison's flow run reach the run at work.
"""

import json
from collections.abc import Callable
from typing import Annotated, Any

from prefect import get_run_logger, tags
from prefect.states import Completed, Failed

from flows.arm_run import Engines, drive_run
from flows.commands.prefect_process import TAG
from flows.compare import not_finished, read_asked, read_comparison, run_comparison
from flows.distill import distill
from flows.driver import worker_root
from flows.forms.form import Overrides, shown, tag_flow_run, told
from flows.forms.machine import machine_to_distil
from flows.forms.presets import comparison_presets, preset_file
from flows.running.project_flow import project_flow
from flows.running.suspension import heed_suspension
from tapir_core.comparison.outcome import Training
from tapir_core.comparison.plan import ComparisonPlan, PlannedRun
from tapir_core.comparison.verdict import verdicts
from tapir_core.errors import TapirError
from tapir_core.estimate.run import save_estimate
from tapir_core.reporting.arms_report import arms_card, arms_plots_card, write_arms
from tapir_core.run_folder import RunFolder, RunRef
from tasks.artifacts import publish_comparison
from tasks.train import count_round

__all__ = ["compare_from_form"]


@project_flow("compare", run_name="compare")
def compare_from_form(
    preset: Annotated[str, shown("Preset", **comparison_presets())] = "compare_quickstart",
    comparison_file: Annotated[str, shown("Comparison file")] = "",
    only: Annotated[str, shown("Arms")] = "",
    run_seeds: Annotated[str, shown("Run seeds")] = "",
    results: Annotated[str, shown("Results folder")] = "",
    overrides: Overrides = (),
) -> Any:
    """Run the arms of a comparison that are not finished, each matched to the reference, and set them side by side.

    Args:
        preset: What is compared: a file `compare_*.toml` of `configs/`. Prefect's own run gets the comparison's name.
        comparison_file: A TOML file of your own on the worker, in place of the preset.
        only: Run these arms, with commas between, and what they are matched to. Empty: all.
        run_seeds: Run these run seeds of the comparison, with commas between. Empty: all.
        results: A folder on the worker for what finished runs came to; none is run that is there already. Empty: none.
        overrides: Settings for all arms, one `section.field=value` each, such as `run.rounds=2`.
    """
    log = get_run_logger()
    try:
        settings = [f"run.root={json.dumps(worker_root())}", *overrides]
        spec = comparison_file or preset_file(preset)
        asked = read_asked(spec, settings, only=only, run_seeds=run_seeds, results=results)
        name = asked.plan.comparison.name
        tag_flow_run(f"comparison-{name}", name=name)
        with heed_suspension(lambda: "Runs that are finished stay finished."):
            drive = _apart(asked.plan, _Engines())
            failed = run_comparison(asked.plan, asked.chosen, drive, say=log.info, results=asked.results)
        compared = read_comparison(asked.plan, asked.results, keep=True)
        page = ""
        if compared.rows:
            page = write_arms(compared, asked.plan.root)
            publish_comparison(name, arms_card(compared), arms_plots_card(compared))
        if failed:
            raise not_finished(failed)
    except TapirError as error:
        log.error("%s", error)
        return Failed(message=told(error))
    if not page:
        return Completed(message="Nothing is finished yet, so there is nothing to compare.")
    return Completed(message=" ".join([*verdicts(compared), f"Page: {page}"]))


class _Engines:
    """The real ones, in the flow run of the run that they work on."""

    def distil(self, run: RunFolder, until: str | None) -> None:
        """Distil it."""
        save_estimate(run)
        distill.fn(run.ref, until)

    def count(self, run: RunFolder, number: int) -> Training:
        """What the training of a round will come to."""
        return count_round(run, number)


def _apart(plan: ComparisonPlan, engines: Engines) -> Callable[[PlannedRun], None]:
    """Drives each run in a flow run of its own below the comparison's, once the machine is free."""

    def drive(planned: PlannedRun) -> None:
        # Made anew for each, for what a flow is given stands on its page.
        @project_flow("distill", run_name="{ref.name}", child=True)
        def drive_child(ref: RunRef) -> None:
            drive_run(plan, planned, engines, say=get_run_logger().info)

        with machine_to_distil(plan.config(planned)), tags(TAG, f"run-{planned.ref.name}"):
            drive_child(planned.ref)

    return drive
