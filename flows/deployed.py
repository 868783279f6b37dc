"""The flows that a deployment starts: what their form asks for, then the same steps as on the command line.

Prefect makes each form from the signature: titles and limits stand in the annotations, descriptions in the docstring.
What the form lets through is checked by the configuration, with the command line's messages. The root of all runs is
the worker's (``TAPIR_ROOT``), never typed; presets are the files of `configs/` in the folder in which a worker works.
No field may be null: the form would show a switch between types in place of the field.
"""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

from prefect import get_run_logger, runtime, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Completed, Failed
from pydantic import Field

from flows.commands.prefect_process import TAG
from flows.distill import distill
from flows.driver import hold_known_run, hold_run, is_done, read_config, worker_root
from flows.project_flow import project_flow
from flows.retry_judge import retry_judge
from flows.retry_sentences import changes_sentence, counts_sentence, nothing_sentence
from tapir_core.errors import TapirError
from tapir_core.estimate.run import save_estimate
from tapir_core.judging.gaps import changed_stages, rounds_to_retry
from tapir_core.reporting.sentences import gain_sentence, state_sentence
from tapir_core.reporting.summary import summarise
from tapir_core.run_folder import RunRef

__all__ = ["distill_from_form", "retry_judge_from_form"]

PRESETS = Path("configs")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"

MAX_ROUNDS = 49


def _shown(title: str, **more: Any) -> Any:
    """What a form shows of a field beside its description; Prefect takes titles from nowhere else."""
    return Field(json_schema_extra={"title": title, **more})


def _presets() -> dict[str, list[str]]:
    names = sorted(file.stem for file in PRESETS.glob("*.toml"))
    return {"enum": names} if names else {}


@contextmanager
def _whole_machine() -> Iterator[None]:
    """Wait until no other deployed run distils on this machine: it takes the GPUs, or the cores, for itself.

    Held in the flow, not before it: a wrong value must not wait for hours before it is refused.
    """
    name = f"distill-on-{socket.gethostname()}"
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    get_run_logger().info("taking the machine (concurrency limit %s); another run may have to end first", name)
    with concurrency(name):
        yield


def _deployed_flow(name: str) -> Callable[[Callable[..., Any]], Any]:
    """A flow whose run is named after the run it works on, and whose state says what a user can do about an error."""

    def wrap(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def body(run: str, *args: Any, **kwargs: Any) -> Any:
            _tag_flow_run(f"run-{run}")
            try:
                with tags(TAG, f"run-{run}"):
                    return Completed(message=function(run, *args, **kwargs))
            except TapirError as error:
                get_run_logger().error("%s", error)
                return Failed(message=str(error))

        return project_flow(name, run_name="{run}")(body)

    return wrap


@_deployed_flow("distill")
def distill_from_form(
    run: Annotated[str, Field(pattern=NAME_PATTERN), _shown("TAPIR run")],
    preset: Annotated[str, _shown("Preset", **_presets())] = "quickstart",
    config_file: Annotated[str, _shown("Configuration file")] = "",
    backbone: Annotated[str, _shown("Backbone")] = "",
    rounds: Annotated[int, Field(ge=0, le=MAX_ROUNDS), _shown("Rounds")] = 0,
    budget_usd: Annotated[float, Field(ge=0), _shown("Budget in USD")] = 0,
    until: Annotated[str, _shown("Stop after stage")] = "",
    amend: Annotated[bool, _shown("Amend")] = False,
    overrides: Annotated[tuple[Annotated[str, Field(pattern="^[^=]+=")], ...], _shown("Overrides")] = (),
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
            with _whole_machine():
                distill.fn(opened.ref, last)
        summary = summarise(opened)
    return " ".join(filter(None, (state_sentence(summary), gain_sentence(summary))))


@_deployed_flow("retry-judge")
def retry_judge_from_form(
    run: Annotated[str, Field(pattern=NAME_PATTERN), _shown("TAPIR run")],
    round_number: Annotated[int, Field(ge=0, le=MAX_ROUNDS), _shown("Round")] = 0,
    also_terminal: Annotated[bool, _shown("Ask unscored verdicts too")] = False,
    go_on: Annotated[bool, _shown("Continue the run")] = False,
) -> str:
    """Ask the judge again for the verdicts that a run went on without.

    Args:
        run: Name of a run in the worker's root.
        round_number: One round. 0: all that are judged.
        also_terminal: Forget the replies of unscored verdicts (refused, no scores in the reply) and pay for them anew.
        go_on: Redo the stages that the new verdicts change. Off: they are only named.
    """
    log = get_run_logger()
    with hold_known_run(RunRef(worker_root(), run), say=log.info) as opened:
        again = rounds_to_retry(opened, round_number or None, also_terminal=also_terminal)
        counts = retry_judge.fn(opened.ref, again, also_terminal) if again else []
        stale = changed_stages(opened)
        if stale and go_on:
            log.info("redoing %s", ", ".join(map(str, stale)))
            with _whole_machine():
                distill.fn(opened.ref)
    if not again and not stale:
        return nothing_sentence(also_terminal=also_terminal)
    return " ".join([*map(counts_sentence, counts), changes_sentence(stale, redone=go_on)])


def _tag_flow_run(tag: str) -> None:
    """The form's flow run is there before it is known what it works on."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, tags=sorted({*runtime.flow_run.tags, tag}))
