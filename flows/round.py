"""One round, from S_{r−1} to S_r: the stages of `tapir_core.stages.ROUND`, then those that score its student.

A round that draws its seeds at random begins with select.
"""

from flows.running.project_flow import project_flow
from flows.steps import walk
from flows.until import stages_until
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import stop_reason
from tapir_core.stages import JUDGE, MIX, SELECT, stages_of
from tasks.artifacts import publish_judge, publish_round

__all__ = ["round_flow"]


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
