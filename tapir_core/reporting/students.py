"""Which students of a run a person means, and which of them have no held-out scores that stand. Reads only."""

from collections.abc import Sequence

from tapir_core.errors import ConfigError
from tapir_core.paths import BACKBONE
from tapir_core.reporting.formats import student_name
from tapir_core.reporting.summary import summarise
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt

__all__ = ["find_students", "unscored_students"]


def find_students(run: RunFolder, which: str) -> list[int]:
    """The rounds whose student is meant: `all`, `best` (by the dev split), `backbone`, or the number of a round.

    Raises:
        ConfigError: the run has no held-out set, or no such student.
    """
    if run.config.data.heldout is None:
        raise ConfigError(
            f"run {run.ref.name!r} has no held-out set; set data.heldout and run it with --amend, or under a new name"
        )
    trained = [number for number in range(run.config.run.rounds + 1) if run.holds(StageAt("train", number))]
    students = {student_name(BACKBONE): BACKBONE, **{str(number): number for number in trained}}
    if which == "all":
        return [*students.values()]
    best = summarise(run).best if which == "best" else None
    if best is None and which not in students:
        why = " yet: it takes a dev split, and a round that is scored" if which == "best" else ""
        raise ConfigError(
            f"--round {which}: run {run.ref.name!r} has no such student{why}; it has {', '.join(students)}; "
            f"see `tapir status {run.ref.name}`"
        )
    return [students[which] if best is None else best]


def unscored_students(run: RunFolder, numbers: Sequence[int]) -> list[int]:
    """Those of ``numbers`` whose scores do not stand."""
    return [number for number in numbers if run.holds(StageAt("evaluate", number)) is None]
