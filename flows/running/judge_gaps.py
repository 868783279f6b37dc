"""The event that a run ended without verdicts that can still be had: *retry-judge* starts on it, after a while.

Sent when the run is let go, not when the judge stage is sealed: until then nobody else may drive it. Limits: a judge
that stays away must not be asked for ever, so nothing is sent when *retry-judge* has taken the run up three times
within a day; and it goes on to the run's end, so nothing is sent by a drive that was to go to a stage only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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
from prefect.context import FlowRunContext
from prefect.events import emit_event

from tapir_core.errors import EngineError, MissingPrerequisite, TooMuchMissing
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import count_gaps, state_of
from tapir_core.stages import StageAt

__all__ = ["INCOMPLETE", "MOST_RETRIES", "tell_gaps"]

INCOMPLETE = "tapir.judge.incomplete"
"""The event on which deployments/prefect.yaml starts *retry-judge*."""

MOST_RETRIES = 3
"""Flow runs of *retry-judge* for a run within 24 hours, those that a person started included."""

_DAY = timedelta(hours=24)


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
        if whole and following is not None and following.name == "judge":
            _tell(ref, "stopped")
        raise
    judged = (at for each in run.config.round_numbers if run.holds(at := StageAt("judge", each)))
    if whole and any(count_gaps(run, at.number).missing for at in judged):
        _tell(ref, "went on")


def _tell(ref: RunRef, how: Literal["stopped", "went on"]) -> None:
    if FlowRunContext.get() is None:
        return
    try:
        if _retries(ref) >= MOST_RETRIES:
            return
    except Exception:  # a server that is away starts nothing, and must not hide why the run ended
        return
    resource = {
        "prefect.resource.id": f"tapir.run.{ref.name}",
        "prefect.resource.name": ref.name,
        "tapir.run": ref.name,
        "tapir.judge": how,
    }
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
