"""`tapir retry-judge`: ask the judge again for what a round went on without, and say which stages that changes.

A sealed stage is never asked again by itself. Here its seal is taken off, what lacks is asked, and it is sealed again;
the stages that read it stay as they are until `--continue` redoes them.
"""

from flows.project_flow import project_flow
from flows.steps import follow_shards, seal_stage, submit_shards
from tapir_core.errors import ConfigError
from tapir_core.judging import expected_orders
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt, plan
from tasks.answer import answer_shard
from tasks.inputs import round_pool
from tasks.judge import forget_unscored, judge_shard

__all__ = ["changed_stages", "retry_judge", "rounds_to_retry"]


def rounds_to_retry(run: RunFolder, number: int | None, *, also_terminal: bool) -> list[int]:
    """The judged rounds in which something can be asked again: all of them, or ``number`` alone.

    Raises:
        ConfigError: round ``number`` is not judged.
    """
    judged = [each for each in range(1, run.config.run.rounds + 1) if run.holds(StageAt("judge", each))]
    if number is not None and number not in judged:
        raise ConfigError(
            f"--round {number}: run {run.ref.name!r} has not judged that round (judged: {judged or 'none'}); "
            f"see `tapir status {run.ref.name}`"
        )
    wanted = judged if number is None else [number]
    return [each for each in wanted if _missing(run, each) or (also_terminal and _unscored(run, each))]


@project_flow("retry-judge", run_name="{ref.name}")
def retry_judge(ref: RunRef, rounds: list[int], also_terminal: bool = False) -> list[dict[str, int]]:
    """Ask again for the missing verdicts of ``rounds``; gives the counts of verdicts before and after, by round."""
    return [_retry_round(RunFolder(ref), number, also_terminal) for number in rounds]


def changed_stages(run: RunFolder) -> list[StageAt]:
    """The stages that are done, but from verdicts that are not the same any more."""
    return [at for at in plan(run.config) if run.manifest(at) is not None and run.holds(at) is None]


def _retry_round(run: RunFolder, number: int, also_terminal: bool) -> dict[str, int]:
    at, ref = StageAt("judge", number), run.ref
    before = {"missing_before": _missing(run, number), "unscored_before": _unscored(run, number)}
    if also_terminal:
        forget_unscored(run, at)
    run.unseal(at)
    rows = round_pool(run, number).height
    answers = submit_shards(ref, StageAt("answer", number), answer_shard, rows)
    seal_stage(ref, follow_shards(ref, at, judge_shard, answers, rows * len(expected_orders(run.config.judge))))
    after = {"missing_after": _missing(run, number), "unscored_after": _unscored(run, number)}
    return {"round": number, **before, **after}


def _missing(run: RunFolder, number: int) -> int:
    manifest = run.manifest(StageAt("judge", number))
    return sum(manifest.accepted_missing.values()) if manifest else 0


def _unscored(run: RunFolder, number: int) -> int:
    return run.rows(StageAt("judge", number)).filter(status="unscored").height
