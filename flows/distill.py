"""The whole distillation, as the method states it: pool, labels, plain answers, S_0, then round by round.

Order only, and that of the stages stands in `tapir_core.stages`: what a stage does stands in `tasks/`, what it means in
`tapir_core/`.
"""

from itertools import takewhile

from prefect import tags

from flows import driver, fleet, retry_judge, steps
from flows.project_flow import live_spend, project_flow
from tapir_core.comparison.baseline import run_beside
from tapir_core.paths import BACKBONE
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import stop_reason
from tapir_core.stages import JUDGE, MIX, SELECT, TRAIN, plan, stages_of
from tasks import artifacts, pool, train


@project_flow("distill", run_name="{ref.name}")
def distill(ref: RunRef, until: str | None = None) -> dict[str, object]:
    """Distil a student round by round, to the end or ``until`` a stage holds; returns a summary of the rounds."""
    run = RunFolder(ref)
    fleet.join_fleet(run)
    wanted = driver.stages_until(run.config, until)
    if any(at.name == TRAIN.name and run.holds(at) is None and not _ended_before(run, at.number) for at in wanted):
        chat = train.check_trainer(run)
        if not chat.takes_system:
            # The pool costs nothing; what it asks comes after.
            unpaid = takewhile(lambda at: not at.stage.asks, stages_of(run.config, None))
            steps.run_stages(ref, [at for at in unpaid if at in wanted])
            pool.check_system_texts(run, chat.other)
    with retry_judge.tell_gaps(ref, whole=until is None), live_spend(ref, list(plan(run.config)), whole=until is None):
        rounds = _distill(run, until)
    artifacts.publish_run(ref)
    if until is None and (beside := run_beside(run)) is not None:
        artifacts.publish_run(beside.ref)
    return {"run": ref.name, "rounds": rounds}


def _ended_before(run: RunFolder, number: int) -> bool:
    """Whether the stop rule ended the run before round ``number``."""
    return any(stop_reason(run, earlier) for earlier in range(1, number))


def _distill(run: RunFolder, until: str | None) -> list[dict[str, object]]:
    ref, wanted = run.ref, driver.stages_until(run.config, until)
    once = list(stages_of(run.config, None))
    steps.run_stages(ref, [at for at in once if at in wanted])
    if wanted[-1] in once:
        pool.check_discovered(run)
        return []
    pool.check_pool(run)
    for number, tag in ((BACKBONE, "backbone"), (0, "round-0")):
        stages = list(stages_of(run.config, number))
        with tags(tag):
            done = steps.run_stages(ref, [at for at in stages if at in wanted])
            if len(done) == len(stages):
                artifacts.publish_round(ref, number)
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
    stages, wanted = list(stages_of(run.config, number)), driver.stages_until(run.config, until)
    found: dict[str, object] = {"round": number}
    for at, made in steps.walk(ref, [at for at in stages if at in wanted]):
        if at.name == JUDGE.name:
            artifacts.publish_judge(ref, number)
        elif at.name == SELECT.name:
            found["seeds"] = made.rows
            if (reason := stop_reason(run, number)) is not None:
                return {**found, "stopped": reason}
        elif at.name == MIX.name:
            found["examples"] = made.rows
    if stages[-1] not in wanted:
        return {**found, "stopped": f"{wanted[-1]} was asked for and nothing after it"}
    artifacts.publish_round(ref, number)
    return {**found, "stopped": stop_reason(run, number)}
