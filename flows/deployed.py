"""The flows that a deployment starts: what their form asks for, then the same steps as on the command line.

What the form lets through is checked by the configuration, with the command line's messages. The root of all runs is
the worker's (``TAPIR_ROOT``), never typed; presets are the files of `configs/` in the folder in which a worker works.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from prefect import get_run_logger, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Completed, Failed
from pydantic import Field

from flows.commands.prefect_process import TAG
from flows.distill import distill
from flows.driver import hold_known_run, hold_run, is_done, read_config, worker_root
from flows.forms import MAX_ROUNDS, Overrides, RunName, deployed_flow, shown, tag_flow_run
from flows.project_flow import project_flow
from flows.retry_judge import retry_judge
from flows.retry_sentences import changes_sentence, counts_sentence, nothing_sentence
from flows.suspension import heed_suspension, leave_if_suspended
from flows.sweep import open_sweep, run_sweep
from tapir_core.errors import TapirError
from tapir_core.estimate.run import save_estimate
from tapir_core.judging.gaps import changed_stages, rounds_to_retry
from tapir_core.paths import BACKBONES
from tapir_core.reporting.compare_report import write_sweep_report
from tapir_core.reporting.sentences import gain_sentence, report_path, state_sentence
from tapir_core.reporting.summary import summarise
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.sweep import sweep_sentence
from tasks.artifacts import publish_sweep

__all__ = ["distil_child", "distill_from_form", "retry_judge_from_form", "sweep_from_form", "whole_machine"]

PRESETS = Path("configs")

_ASK_AGAIN_SECONDS = 60.0
"""Between two looks at whether a run that waits for the machine was suspended."""

_FORGOTTEN_SECONDS = 120.0
"""For so long a flow run that was killed still has the machine."""


def _presets() -> dict[str, list[str]]:
    names = sorted(file.stem for file in PRESETS.glob("*.toml") if file.name != Path(BACKBONES).name)
    return {"enum": names} if names else {}


@contextmanager
def whole_machine() -> Iterator[None]:
    """Wait until no other deployed run distils on this machine: it takes the GPUs, or the cores, for itself.

    Held in the flow, not before it: a wrong value must not wait for hours before it is refused.
    """
    name = f"distill-on-{socket.gethostname()}"
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    get_run_logger().info("taking the machine (concurrency limit %s); another run may have to end first", name)
    with ExitStack() as held:
        while True:
            with suppress(TimeoutError):
                seconds = _ASK_AGAIN_SECONDS
                held.enter_context(concurrency(name, timeout_seconds=seconds, lease_duration=_FORGOTTEN_SECONDS))
                break
            leave_if_suspended()
        yield


@deployed_flow("distill")
def distill_from_form(
    run: RunName,
    preset: Annotated[str, shown("Preset", **_presets())] = "quickstart",
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
        amend: Redo what a changed file or setting changes, and keep the rest. Off: such a change is refused.
        overrides: Any other setting, one `section.field=value` each, such as `calls.concurrency=16`. They win over the
            fields above.
    """
    log = get_run_logger()
    given = {"run.root": worker_root(), "student.backbone": backbone, "run.rounds": rounds, "budget.usd": budget_usd}
    settings = [f"{field}={json.dumps(value)}" for field, value in given.items() if value]
    source, last = config_file or PRESETS / f"{preset}.toml", until or None
    config = read_config(source, [*settings, *overrides], run, until=last)
    with hold_run(config, say=log.info, amend=amend) as opened:
        if not is_done(opened, last):
            save_estimate(opened)
            with whole_machine():
                distill.fn(opened.ref, last)
        summary = summarise(opened)
    shown = f"Report: {report_path(summary)}" if summary.next_stage is None else ""
    return " ".join(filter(None, (state_sentence(summary), gain_sentence(summary), shown)))


@deployed_flow("retry-judge")
def retry_judge_from_form(
    run: RunName,
    round_number: Annotated[int, Field(ge=0, le=MAX_ROUNDS), shown("Round")] = 0,
    also_terminal: Annotated[bool, shown("Ask unscored verdicts too")] = False,
    go_on: Annotated[bool, shown("Continue the run")] = False,
) -> str:
    """Ask the judge again for the verdicts that a run went on without.

    Args:
        run: Name of a run in the worker's root.
        round_number: One round. 0: all that are judged.
        also_terminal: Forget the replies of unscored verdicts (refused, no scores in the reply) and pay for them anew.
        go_on: Redo the stages that the new verdicts change, and go on to the run's end. Off: they are only named.
    """
    log = get_run_logger()
    with hold_known_run(RunRef(worker_root(), run), say=log.info) as opened:
        again = rounds_to_retry(opened, round_number or None, also_terminal=also_terminal)
        counts = retry_judge.fn(opened.ref, again, also_terminal) if again else []
        stale = changed_stages(opened)
        if go_on and (stale or not is_done(opened, None)):
            log.info("going on with the run")
            with whole_machine():
                distill.fn(opened.ref)
        reached = state_sentence(summarise(opened))
    if not again and not stale:
        return f"{nothing_sentence(also_terminal=also_terminal)} {reached}"
    return " ".join([*map(counts_sentence, counts), changes_sentence(stale, redone=go_on), reached])


@project_flow("sweep-backbones", run_name="sweep-{backbones}")
def sweep_from_form(
    backbones: Annotated[str, Field(min_length=1), shown("List of backbones")] = BACKBONES,
    config_file: Annotated[str, shown("Configuration file")] = "",
    overrides: Overrides = (),
) -> Any:
    """Distil every backbone of a list that has no finished run of a curriculum, and compare them.

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
    failed = any(each.outcome == "failed" for each in swept)
    return (Failed if failed else Completed)(message=sweep_sentence(swept))


def _distil_apart(run: RunFolder) -> None:
    """Distil in a flow run of its own below the sweep's, once the machine is free."""
    with whole_machine(), tags(TAG, f"run-{run.ref.name}"):
        distil_child(run.ref)


@project_flow("distill", run_name="{ref.name}", child=True)
def distil_child(ref: RunRef) -> Any:
    """*distill* as a child of a sweep."""
    return distill.fn(ref)
