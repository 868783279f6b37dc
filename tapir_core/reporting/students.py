"""Which students of a run a person means, and which of them have no held-out scores that stand. Reads only."""

from collections.abc import Sequence

from tapir_core.errors import ConfigError
from tapir_core.paths import BACKBONE
from tapir_core.reporting.formats import student_name
from tapir_core.reporting.summary import summarise
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt

__all__ = ["find_student", "find_students", "unscored_students"]


def find_students(run: RunFolder, which: str) -> list[int]:
    """The rounds whose student is meant: `all`, `backbone`, or what `find_student` takes.

    Raises:
        ConfigError: the run has no held-out set, or no such student.
    """
    if run.config.data.heldout is None:
        raise ConfigError(
            f"run {run.ref.name!r} has no held-out set; set data.heldout and run it with --amend, or under a new name"
        )
    if which == "all":
        return [BACKBONE, *_trained(run)]
    if which == student_name(BACKBONE):
        return [BACKBONE]
    return [find_student(run, which, others=(student_name(BACKBONE),))]


def find_student(run: RunFolder, which: str, *, others: Sequence[str] = ()) -> int:
    """The round whose trained student is meant: `best` (by the dev split), or the number of a round.

    Args:
        run: The run.
        which: What the user says.
        others: What the user might have said as well.

    Raises:
        ConfigError: the run has no such student.
    """
    students = {str(number): number for number in _trained(run)}
    best = summarise(run).best if which == "best" else None
    if which not in students and best not in students.values():
        why = " yet: it takes a dev split, and a round that is scored" if which == "best" else ""
        raise ConfigError(
            f"--round {which}: run {run.ref.name!r} has no such student{why}; it has "
            f"{', '.join([*others, *students]) or 'none'}; see `tapir status {run.ref.name}`"
        )
    return students[which] if best is None else best


def unscored_students(run: RunFolder, numbers: Sequence[int]) -> list[int]:
    """Those of ``numbers`` whose scores do not stand."""
    return [number for number in numbers if run.holds(StageAt("evaluate", number)) is None]


def _trained(run: RunFolder) -> list[int]:
    return [number for number in range(run.config.run.rounds + 1) if run.holds(StageAt("train", number))]
