"""What a run's verdicts lack: which rounds can be asked again, and which stages new verdicts change. Reads only."""

from dataclasses import dataclass

from tapir_core.errors import ConfigError
from tapir_core.judging.modes import verdicts_per_instruction
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt, plan

__all__ = ["Gaps", "changed_stages", "count_gaps", "rounds_to_retry"]


@dataclass(frozen=True, slots=True)
class Gaps:
    """Verdicts that a judged round does without."""

    missing: int
    """The round was sealed without them; all of them where its judging has no seal, or one of other settings."""
    unscored: int
    """Received, but without scores."""


def count_gaps(run: RunFolder, number: int) -> Gaps:
    """The gaps of round ``number``, which has answers; unscored are those that lie sealed."""
    at = StageAt("judge", number)
    manifest = run.manifest(at)
    if manifest is None or run.holds(at) is None:
        answers = run.manifest(StageAt("answer", number))
        assert answers is not None
        return Gaps(answers.rows * verdicts_per_instruction(run.config.judge), 0)
    return Gaps(sum(manifest.accepted_missing.values()), run.rows(at).filter(status="unscored").height)


def rounds_to_retry(run: RunFolder, number: int | None, *, also_terminal: bool) -> list[int]:
    """The judged rounds in which something can be asked again: all of them, or ``number`` alone.

    A round whose answers stand and whose judging stopped before it had a seal is one of them.

    Raises:
        ConfigError: round ``number`` is not judged.
    """
    judged = [each for each in run.config.round_numbers if _is_judged(run, each)]
    if number is not None and number not in judged:
        raise ConfigError(
            f"--round {number}: run {run.ref.name!r} has not judged that round (judged: {judged or 'none'}); "
            f"see `tapir status {run.ref.name}`"
        )
    gaps = {each: count_gaps(run, each) for each in (judged if number is None else [number])}
    return [each for each, found in gaps.items() if found.missing or (also_terminal and found.unscored)]


def _is_judged(run: RunFolder, number: int) -> bool:
    return any(run.holds(StageAt(name, number)) is not None for name in ("judge", "answer"))


def changed_stages(run: RunFolder) -> list[StageAt]:
    """The stages that are done, but from verdicts that are not the same any more."""
    return [at for at in plan(run.config) if run.manifest(at) is not None and run.holds(at) is None]
