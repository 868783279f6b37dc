"""The stop rule. Reads dev figures and seed counts only; the test split is read by no decision."""

from tapir_core.curriculum import RoundHistory, should_stop
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt

__all__ = ["dev_score", "history", "stop_reason"]


def stop_reason(ref: RunRef, number: int) -> str | None:
    """Why the run stops in or after round ``number``, in words; nothing when it goes on."""
    run = RunFolder(ref)
    return should_stop(history(run, number), run.config.curriculum.stop)


def history(run: RunFolder, number: int) -> list[RoundHistory]:
    """What the stop rule may know of S_0 and the rounds up to ``number``, as far as they are done."""
    rounds = [RoundHistory(0, dev_score=dev_score(run, 0))]
    for each in range(1, number + 1):
        by_difficulty = run.config.verdict_round(each) is not None
        seeds = run.holds(StageAt("select", each)) if by_difficulty else None
        rounds.append(RoundHistory(each, seeds.rows if seeds else None, dev_score(run, each)))
    return rounds


def dev_score(run: RunFolder, number: int) -> float | None:
    """The student's accuracy on the dev split; nothing before its evaluation, without a dev split or a figure of it."""
    at = StageAt("evaluate", number)
    if run.config.data.heldout is None or run.holds(at) is None:
        return None
    scores: list[float | None] = run.rows(at).filter(split="dev", category="all")["value"].to_list()
    return scores[0] if scores else None
