"""The deployment *distill*: what its form asks for, then the same steps as `tapir run`.

What the form lets through is checked by the configuration, with the command line's messages. The root of all runs is
the worker's (``TAPIR_ROOT``), never typed.
"""

import json
from typing import Annotated

from prefect import get_run_logger
from pydantic import Field

from flows.distill import distill
from flows.driver import hold_run, is_done, read_config, worker_root
from flows.forms.form import MAX_ROUNDS, Overrides, RunName, deployed_flow, shown
from flows.forms.machine import machine_to_distil
from flows.forms.presets import preset_file, run_presets
from tapir_core.estimate.run import save_estimate
from tapir_core.reporting.benchmarks import require_round_figures
from tapir_core.reporting.sentences import gain_sentence, report_path, state_sentence
from tapir_core.reporting.summary import summarise

__all__ = ["distill_from_form"]


@deployed_flow("distill")
def distill_from_form(
    run: RunName,
    preset: Annotated[str, shown("Preset", **run_presets())] = "quickstart",
    config_file: Annotated[str, shown("Configuration file")] = "",
    backbone: Annotated[str, shown("Backbone")] = "",
    rounds: Annotated[int, Field(ge=0, le=MAX_ROUNDS), shown("Rounds")] = 0,
    budget_usd: Annotated[float, Field(ge=0), shown("Budget in USD")] = 0,
    until: Annotated[str, shown("Stop after stage")] = "",
    amend: Annotated[bool, shown("Amend")] = False,
    overrides: Overrides = (),
) -> str:
    """Distil a student round by round, or go on with a run.

    Args:
        run: The run's name and folder. A new name starts a run, a known one goes on with it. Prefect's own run gets
            this name too.
        preset: What the run is, before the fields below: a file of `configs/`.
        config_file: A TOML file of your own on the worker, in place of the preset.
        backbone: The student: a hub id, a model folder on the worker, or `embedded:smollm2-135m-instruct`. Empty: the
            preset's.
        rounds: Most rounds; the stop rule may end sooner. 0: the preset's.
        budget_usd: The run stops cleanly at this sum and goes on once it is raised. Every price must be known. 0: the
            preset's, or no cap.
        until: Go no further than this stage: `judge` (of round 1), `judge@2`, `train@0`. Empty: to the end.
        amend: Redo what a changed file, setting or version of tapir changes, and keep the rest. Off: such a change is
            refused.
        overrides: Any other setting, one `section.field=value` each, such as `calls.concurrency=16`. They win over the
            fields above.
    """
    log = get_run_logger()
    given = {"run.root": worker_root(), "student.backbone": backbone, "run.rounds": rounds, "budget.usd": budget_usd}
    settings = [f"{field}={json.dumps(value)}" for field, value in given.items() if value]
    source, last = config_file or preset_file(preset), until or None
    config = read_config(source, [*settings, *overrides], run, until=last)
    with hold_run(config, say=log.info, amend=amend) as opened:
        if not is_done(opened, last):
            save_estimate(opened)
            with machine_to_distil(config):
                distill.fn(opened.ref, last)
        summary = summarise(opened)
        require_round_figures(summary, config.evaluation.each_round)
    shown = f"Report: {report_path(summary)}" if summary.next_stage is None else ""
    return " ".join(filter(None, (state_sentence(summary), gain_sentence(summary), shown)))
