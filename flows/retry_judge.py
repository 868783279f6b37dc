"""Flow *retry-judge*: ask the judge again for what a round went on without, or stopped for.

A sealed stage is never asked again by itself. Here what it lacks is asked and it is sealed anew; until then the old
seal stays, so that a kill leaves the round as it was. The stages that read it stay until somebody redoes them.
"""

from dataclasses import asdict

from flows.running.judge_gaps import tell_gaps
from flows.running.live_spend import live_spend
from flows.running.project_flow import project_flow
from flows.steps import run_stages
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import count_gaps
from tapir_core.stages import ANSWER, JUDGE
from tasks.judge import check_stored, forget_unscored

__all__ = ["retry_judge"]


@project_flow("retry-judge", run_name="{ref.name}")
def retry_judge(ref: RunRef, rounds: list[int], also_terminal: bool = False) -> list[dict[str, int]]:
    """Ask again for the missing verdicts of ``rounds``; gives the counts of verdicts before and after, by round."""
    asked = [stage.at(number) for number in rounds for stage in (ANSWER, JUDGE)]
    with tell_gaps(ref), live_spend(ref, asked):
        return [_retry_round(RunFolder(ref), number, also_terminal) for number in rounds]


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
