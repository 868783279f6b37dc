"""The whole distillation, as the method states it: pool, labels, plain answers, S_0, the rounds; and *retry-judge*.

Order only, and that of the stages stands in `tapir_core.stages`: what a stage does stands in `tasks/`, what it means in
`tapir_core/`.

A sealed stage is never asked again by itself. *retry-judge* asks the judge for what it lacks and seals it anew; until
then the old seal stays, so that a kill leaves the round as it was. The stages that read it stay until somebody redoes
them.

An event tells that the judge can be asked again, and starts *retry-judge* after a while. It is sent when the run is let
go, not when the judge stage is sealed: until then nobody else may drive it. Limits: a judge that stays away must not be
asked for ever, so nothing is sent when *retry-judge* has taken the run up three times within a day; and it goes on to
the run's end, so nothing is sent by a drive that was to go to a stage only.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Literal

from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterTags,
)
from prefect.events import emit_event

from flows.driver import stages_until
from flows.fleet import join_fleet
from flows.project_flow import live_spend, project_flow
from flows.steps import run_stages, walk
from tapir_core.errors import EngineError, MissingPrerequisite, TooMuchMissing
from tapir_core.paths import BACKBONE
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import count_gaps, state_of, stop_reason
from tapir_core.stages import ANSWER, JUDGE, MIX, SELECT, TRAIN, StageAt, plan, stages_of
from tasks.artifacts import publish_judge, publish_round, publish_run
from tasks.judge import check_stored, forget_unscored
from tasks.pool import check_pool
from tasks.train import check_trainer


@project_flow("distill", run_name="{ref.name}")
def distill(ref: RunRef, until: str | None = None) -> dict[str, object]:
    """Distil a student round by round, to the end or ``until`` a stage holds; returns a summary of the rounds."""
    run = RunFolder(ref)
    join_fleet(run)
    wanted = stages_until(run.config, until)
    if TRAIN.at(0) in wanted:
        check_trainer(run.config)
    with tell_gaps(ref, whole=until is None), live_spend(ref, list(plan(run.config)), whole=until is None):
        rounds = _distill(run, until)
    publish_run(ref)
    return {"run": ref.name, "rounds": rounds}


def _distill(run: RunFolder, until: str | None) -> list[dict[str, object]]:
    ref, wanted = run.ref, stages_until(run.config, until)
    once = list(stages_of(run.config, None))
    run_stages(ref, [at for at in once if at in wanted])
    if wanted[-1] in once:
        return []
    check_pool(run)
    for number, tag in ((BACKBONE, "backbone"), (0, "round-0")):
        stages = list(stages_of(run.config, number))
        with tags(tag):
            done = run_stages(ref, [at for at in stages if at in wanted])
            if len(done) == len(stages):
                publish_round(ref, number)
        if wanted[-1] in stages:
            return []
    rounds: list[dict[str, object]] = []
    for number in run.config.round_numbers:
        with tags(f"round-{number}"):
            rounds.append(round_flow(ref, number, until))
        if rounds[-1]["stopped"] or wanted[-1].round == number:
            break
    return rounds


@project_flow("round", run_name="round-{number}", child=True)
def round_flow(ref: RunRef, number: int, until: str | None = None) -> dict[str, object]:
    """From S_{r−1} to S_r, or to the stage ``until``; returns how many seeds and examples it had, and why it stops."""
    run = RunFolder(ref)
    stages, wanted = list(stages_of(run.config, number)), stages_until(run.config, until)
    found: dict[str, object] = {"round": number}
    for at, made in walk(ref, [at for at in stages if at in wanted]):
        if at.name == JUDGE.name:
            publish_judge(ref, number)
        elif at.name == SELECT.name:
            found["seeds"] = made.rows
            if (reason := stop_reason(run, number)) is not None:
                return {**found, "stopped": reason}
        elif at.name == MIX.name:
            found["examples"] = made.rows
    if stages[-1] not in wanted:
        return {**found, "stopped": f"{wanted[-1]} was asked for and nothing after it"}
    publish_round(ref, number)
    return {**found, "stopped": stop_reason(run, number)}


INCOMPLETE = "tapir.judge.incomplete"
"""The event on which deployments/prefect.yaml starts *retry-judge*."""

MOST_RETRIES = 3
"""Flow runs of *retry-judge* for a run within 24 hours, those that a person started included."""

_DAY = timedelta(hours=24)


@project_flow("retry-judge", run_name="{ref.name}")
def retry_judge(ref: RunRef, rounds: list[int], also_terminal: bool = False) -> list[dict[str, int]]:
    """Ask again for the missing verdicts of ``rounds``; gives the counts of verdicts before and after, by round."""
    asked = [stage.at(number) for number in rounds for stage in (ANSWER, JUDGE)]
    with tell_gaps(ref), live_spend(ref, asked):
        return [_retry_round(RunFolder(ref), number, also_terminal) for number in rounds]


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


def _retry_round(run: RunFolder, number: int, also_terminal: bool) -> dict[str, int]:
    at, ref, before = JUDGE.at(number), run.ref, asdict(count_gaps(run, number))
    if run.holds(at) is not None:
        check_stored(run, at)
    if also_terminal:
        forget_unscored(run, at)
    run_stages(ref, [ANSWER.at(number), at], again=lambda each: each == at)
    after = asdict(count_gaps(run, number))
    told = {f"{name}_{when}": each[name] for when, each in (("before", before), ("after", after)) for name in each}
    return {"round": number, **told}


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
