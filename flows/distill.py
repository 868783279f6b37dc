"""The flows of one run: *distill* takes it to its end, *retry-judge* and *evaluate* take it up again.

*distill*, as the method states it: pool, labels, plain answers, S_0, then round by round. Order only, and that of the
stages stands in `tapir_core.stages`: what a stage does stands in `tasks/`, what it means in `tapir_core/`.

*retry-judge* asks for the verdicts that a run lacks. A sealed stage is never asked again by itself. The flow asks for
what it lacks and seals it anew; until then the old seal stays, so that a kill leaves the round as it was. The stages
that read it stay until somebody redoes them.

An event starts *retry-judge* after a while. It is sent when the run is let go, not when the judge stage is sealed:
until then nobody else may drive it. Limits: a judge that stays away must not be asked for ever, so nothing is sent when
*retry-judge* has taken the run up three times within a day; and it goes on to the run's end, so nothing is sent by a
drive that was to go to a stage only.

*evaluate* scores students on their own, and models whose outputs to a benchmark are files: the held-out set first, then
benchmarks, while the same student is served. Scores that stand are not made again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, Literal

from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas import filters
from prefect.events import emit_event

from flows import driver, fleet
from flows.project_flow import live_spend, project_flow
from flows.steps import run_stages, walk
from tapir_core import errors, paths, run_state
from tapir_core.comparison.baseline import run_beside
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import (
    BENCHMARK_ITEMS,
    JUDGE,
    MIX,
    POOL,
    SCORE,
    SELECT,
    TRAIN,
    Compared,
    StageAt,
    benchmark_stages,
    heldout_stages,
    plan,
    stages_of,
)
from tasks import artifacts, judge, pool, train
from tasks.benchmarks import forget_failed

INCOMPLETE = "tapir.judge.incomplete"
"""The event on which deployments/prefect.yaml starts *retry-judge*."""

MOST_RETRIES = 3
"""Flow runs of *retry-judge* for a run within 24 hours, those that a person started included."""


@project_flow("distill", run_name="{ref.name}")
def distill(ref: RunRef, until: str | None = None) -> dict[str, object]:
    """Distil a student round by round, to the end or ``until`` a stage holds; returns a summary of the rounds."""
    run = RunFolder(ref)
    fleet.join_fleet(run)
    wanted = driver.stages_until(run.config, until)
    # The stop rule may have ended the run before a round.
    if any(
        at.name == TRAIN.name
        and run.holds(at) is None
        and not any(run_state.stop_reason(run, earlier) for earlier in range(1, at.number))
        for at in wanted
    ):
        chat = train.check_trainer(run)
        if run.holds(POOL.at()):  # else the stage looks itself
            train.check_tools(run, run.rows(POOL.at()))
        if not chat.takes_system:
            # The pool costs nothing; what it asks comes after.
            unpaid = takewhile(lambda at: not at.stage.asks, stages_of(run.config, None))
            run_stages(ref, [at for at in unpaid if at in wanted])
            pool.check_system_texts(run, chat.other)
    with tell_gaps(ref, whole=until is None), live_spend(ref, list(plan(run.config)), whole=until is None):
        rounds = _distill(run, until)
    artifacts.publish_run(ref)
    if until is None and (beside := run_beside(run)) is not None:
        artifacts.publish_run(beside.ref)
    return {"run": ref.name, "rounds": rounds}


def _distill(run: RunFolder, until: str | None) -> list[dict[str, object]]:
    ref, wanted = run.ref, driver.stages_until(run.config, until)
    once = list(stages_of(run.config, None))
    run_stages(ref, [at for at in once if at in wanted])
    if wanted[-1] in once:
        pool.check_discovered(run)
        return []
    pool.check_pool(run)
    for number in (paths.BACKBONE, 0):
        stages = list(stages_of(run.config, number))
        with tags(_tag(number)):
            done = run_stages(ref, [at for at in stages if at in wanted])
            if len(done) == len(stages):
                artifacts.publish_round(ref, number)
        if wanted[-1] in stages:
            return []
    rounds: list[dict[str, object]] = []
    for number in run.config.round_numbers:
        with tags(_tag(number)):
            rounds.append(round_flow(ref, number, until))
        if rounds[-1]["stopped"] or wanted[-1].round == number:
            break
    if wanted[-1].round == paths.AVERAGE and (stages := run_state.averaging(run)):
        with tags(_tag(paths.AVERAGE)):
            run_stages(ref, [at for at in stages if at in wanted])
            artifacts.publish_round(ref, paths.AVERAGE)
    return rounds


def _tag(number: int) -> str:
    return paths.OF_NO_ROUND.get(number, f"round-{number}")


@project_flow("round", run_name="round-{number}", child=True)
def round_flow(ref: RunRef, number: int, until: str | None = None) -> dict[str, object]:
    """From S_{r−1} to S_r, or to the stage ``until``; returns how many seeds and examples it had, and why it stops."""
    run = RunFolder(ref)
    stages, wanted = list(stages_of(run.config, number)), driver.stages_until(run.config, until)
    found: dict[str, object] = {"round": number}
    for at, made in walk(ref, [at for at in stages if at in wanted]):
        if at.name == JUDGE.name and not run_state.judge_is_shown(run, number):
            artifacts.publish_judge(ref, number)
        elif at.name == MIX.name:
            found["examples"] = made.rows
        elif at.name in (SELECT.name, SCORE.name):
            found |= {"seeds": made.rows} if at.name == SELECT.name else {}
            if run.holds(TRAIN.at(number)) is None and (reason := run_state.stop_reason(run, number)) is not None:
                return {**found, "stopped": reason}
    if stages[-1] not in wanted:
        return {**found, "stopped": f"{wanted[-1]} was asked for and nothing after it"}
    artifacts.publish_round(ref, number)
    return {**found, "stopped": run_state.stop_reason(run, number)}


@project_flow("retry-judge", run_name="{ref.name}")
def retry_judge(
    ref: RunRef, stages: list[StageAt], also_terminal: bool = False, whole: bool = True
) -> list[dict[str, int | str]]:
    """Ask again for the missing verdicts of judging ``stages``, in their order; the counts before and after, by stage.

    One whose answers are of another student by then, for its round was judged anew, is left to the run. ``whole``: the
    run is to go on to its end, also by itself where the judge is away.
    """
    run, asked = RunFolder(ref), [each for at in stages for each in (run_state.judged_at(at), at)]
    with tell_gaps(ref, whole=whole), live_spend(ref, asked):
        return [_retry_stage(run, at, also_terminal) for at in stages if run.holds(run_state.judged_at(at)) is not None]


@contextmanager
def tell_gaps(ref: RunRef, *, whole: bool = True) -> Iterator[None]:
    """Around a drive of a run: send the event when it stopped in judging, or went on with verdicts missing.

    Not when it is to go to a stage only (``whole``).
    """
    run = RunFolder(ref)
    try:
        yield
    except (errors.TooMuchMissing, errors.MissingPrerequisite, errors.EngineError):
        following = run_state.state_of(run).next_stage
        if whole and following is not None and run_state.is_judging(following):
            _tell(ref, "stopped")
        raise
    judged = (at for at in plan(run.config) if run_state.is_judging(at) and run.holds(at) is not None)
    if whole and any(run_state.count_gaps(run, at).missing for at in judged):
        _tell(ref, "went on")


def _retry_stage(run: RunFolder, at: StageAt, also_terminal: bool) -> dict[str, int | str]:
    before = asdict(run_state.count_gaps(run, at))
    if run.holds(at) is not None:
        judge.check_stored(run, at)
    if also_terminal:
        judge.forget_unscored(run, at)
    run_stages(run.ref, [run_state.judged_at(at), at], again=lambda each: each == at)
    after = asdict(run_state.count_gaps(run, at))
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
    retries = filters.FlowFilter(name=filters.FlowFilterName(any_=["retry-judge"]))
    of_run = filters.FlowRunFilter(
        tags=filters.FlowRunFilterTags(all_=[f"run-{ref.name}"]),
        start_time=filters.FlowRunFilterStartTime(after_=datetime.now(UTC) - timedelta(hours=24)),
    )
    with get_client(sync_client=True) as client:
        return len(client.read_flow_runs(flow_filter=retries, flow_run_filter=of_run, limit=MOST_RETRIES))


@project_flow("evaluate", run_name="{ref.name}")
def evaluate_students(
    ref: RunRef, compared: Sequence[Compared], benchmarks: Sequence[str] = (), also_terminal: bool = False
) -> None:
    """Score these students and models where their scores do not stand; show all scores, in report and run card too.

    With ``also_terminal`` judges of benchmarks are asked anew where they failed for good.
    """
    run = RunFolder(ref)
    with live_spend(ref, run_state.scoring_stages(run, compared, benchmarks)):
        run_stages(ref, _read_first(run, compared, benchmarks))
        for who in sorted(compared, key=lambda each: isinstance(each, str)):
            stages = run_state.scoring_stages(run, [who], benchmarks)
            with tags(who if isinstance(who, str) else _tag(who)):
                run_stages(ref, stages, again=lambda at: also_terminal and _forget_failed(run, at))
    artifacts.publish_scores(ref, [each for each in compared if isinstance(each, int)])
    artifacts.publish_run(ref)


def _read_first(run: RunFolder, compared: Sequence[Compared], benchmarks: Sequence[str]) -> list[StageAt]:
    """What is read of files: what is wrong with them is known before anybody is asked."""
    stages = heldout_stages(run.config) if any(isinstance(each, int) for each in compared) else []
    for name in benchmarks:
        stages.append(BENCHMARK_ITEMS.at(benchmark=name))
        stages += [benchmark_stages(name, model)[0] for model in run_state.models_of(run, name) if model in compared]
    return stages


def _forget_failed(run: RunFolder, at: StageAt) -> bool:
    """Whether judgments failed for good, once those are forgotten, so that their judge is asked anew."""
    failed = run_state.failed_judgments(run, at) > 0
    if failed:
        forget_failed(run, at)
    return failed


FLOWS: dict[str, Any] = {
    "distil": distill,
    "judge": retry_judge,
    "evaluate": evaluate_students,
    "show": evaluate_students,
}
"""The flow of each `whole_run.Work`."""
