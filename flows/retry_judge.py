"""What a run lacks of its judge: flow *retry-judge* asks for it, and an event tells that it can be asked for.

A sealed stage is never asked again by itself. The flow asks for what it lacks and seals it anew; until then the old
seal stays, so that a kill leaves the round as it was. The stages that read it stay until somebody redoes them.

The event starts *retry-judge* after a while. It is sent when the run is let go, not when the judge stage is sealed:
until then nobody else may drive it. Limits: a judge that stays away must not be asked for ever, so nothing is sent when
*retry-judge* has taken the run up three times within a day; and it goes on to the run's end, so nothing is sent by a
drive that was to go to a stage only.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Literal

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterTags,
)
from prefect.events import emit_event

from flows.project_flow import live_spend, project_flow
from flows.steps import run_stages
from tapir_core.errors import EngineError, MissingPrerequisite, TooMuchMissing
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import count_gaps, is_judging, judged_at, state_of
from tapir_core.stages import StageAt, plan
from tasks.judge import check_stored, forget_unscored

INCOMPLETE = "tapir.judge.incomplete"
"""The event on which deployments/prefect.yaml starts *retry-judge*."""

MOST_RETRIES = 3
"""Flow runs of *retry-judge* for a run within 24 hours, those that a person started included."""

_DAY = timedelta(hours=24)


@project_flow("retry-judge", run_name="{ref.name}")
def retry_judge(ref: RunRef, stages: list[StageAt], also_terminal: bool = False) -> list[dict[str, int | str]]:
    """Ask again for the missing verdicts of judging ``stages``, in their order; the counts before and after, by stage.

    One whose answers are of another student by then, for its round was judged anew, is left to the run.
    """
    run, asked = RunFolder(ref), [each for at in stages for each in (judged_at(at), at)]
    with tell_gaps(ref), live_spend(ref, asked):
        return [_retry_stage(run, at, also_terminal) for at in stages if run.holds(judged_at(at)) is not None]


@contextmanager
def tell_gaps(ref: RunRef, *, whole: bool = True) -> Iterator[None]:
    """Around a drive of a run: send the event when it stopped in judging, or went on with verdicts missing.

    Not when it is to go to a stage only (``whole``).
    """
    run = RunFolder(ref)
    try:
        yield
    except (TooMuchMissing, MissingPrerequisite, EngineError):
        following = state_of(run).next_stage
        if whole and following is not None and is_judging(following):
            _tell(ref, "stopped")
        raise
    judged = (at for at in plan(run.config) if is_judging(at) and run.holds(at) is not None)
    if whole and any(count_gaps(run, at).missing for at in judged):
        _tell(ref, "went on")


def _retry_stage(run: RunFolder, at: StageAt, also_terminal: bool) -> dict[str, int | str]:
    before = asdict(count_gaps(run, at))
    if run.holds(at) is not None:
        check_stored(run, at)
    if also_terminal:
        forget_unscored(run, at)
    run_stages(run.ref, [judged_at(at), at], again=lambda each: each == at)
    after = asdict(count_gaps(run, at))
    told = {f"{name}_{when}": each[name] for when, each in (("before", before), ("after", after)) for name in each}
    return {"stage": str(at), **told}


def _tell(ref: RunRef, how: Literal["stopped", "went on"]) -> None:
    resource = {
        "prefect.resource.id": f"tapir.run.{ref.name}",
        "prefect.resource.name": ref.name,
        "tapir.run": ref.name,
        "tapir.judge": how,
    }
    # A server that is away starts nothing, and must not hide why the run ended.
    with suppress(Exception):
        if _retries(ref) < MOST_RETRIES:
            emit_event(INCOMPLETE, resource)


def _retries(ref: RunRef) -> int:
    """How often *retry-judge* has taken the run up within a day."""
    retries = FlowFilter(name=FlowFilterName(any_=["retry-judge"]))
    of_run = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[f"run-{ref.name}"]),
        start_time=FlowRunFilterStartTime(after_=datetime.now(UTC) - _DAY),
    )
    with get_client(sync_client=True) as client:
        return len(client.read_flow_runs(flow_filter=retries, flow_run_filter=of_run, limit=MOST_RETRIES))
