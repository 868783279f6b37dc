"""Which students of a run a person means, on which benchmarks, and whose scores do not stand. Reads only."""

from collections.abc import Iterator, Sequence

from tapir_core.errors import ConfigError
from tapir_core.paths import BACKBONE
from tapir_core.reporting.formats import student_name
from tapir_core.reporting.summary import summarise
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt, benchmark_stages

__all__ = ["find_benchmarks", "find_student", "find_students", "scoring_stages", "unscored_students"]


def find_students(run: RunFolder, which: str, benchmarks: Sequence[str] = ()) -> list[int]:
    """The rounds whose student is meant: `all`, `backbone`, or what `find_student` takes.

    Raises:
        ConfigError: the run has no held-out set where no benchmark is meant, or no such student.
    """
    if run.config.data.heldout is None and not benchmarks:
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


def find_benchmarks(run: RunFolder, named: str) -> list[str]:
    """The benchmarks of a list with commas, in its order; none of an empty text.

    Raises:
        ConfigError: the run's configuration has no such benchmark that can be asked.
    """
    wanted = list(dict.fromkeys(name.strip() for name in named.split(",") if name.strip()))
    known = run.config.evaluation.asked
    if unknown := [name for name in wanted if name not in known]:
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise ConfigError(
            f"--benchmark {', '.join(unknown)}: run {run.ref.name!r} has no such benchmark that can be asked; {there}. "
            f"Give it [evaluation.benchmarks.{unknown[0]}] with a `type` and run it with --amend (docs/evaluation.md)"
        )
    return wanted


def scoring_stages(run: RunFolder, numbers: Sequence[int], benchmarks: Sequence[str]) -> list[StageAt]:
    """Everything that scoring these students takes."""
    return [at for number in numbers for at in _stages_of(run, number, benchmarks)]


def unscored_students(run: RunFolder, numbers: Sequence[int], benchmarks: Sequence[str] = ()) -> list[int]:
    """Those of ``numbers`` whose scores do not stand."""
    last = ("evaluate", "benchmark_scores")
    return [
        number
        for number in numbers
        if any(at.name in last and run.holds(at) is None for at in _stages_of(run, number, benchmarks))
    ]


def _stages_of(run: RunFolder, number: int, benchmarks: Sequence[str]) -> Iterator[StageAt]:
    if run.config.data.heldout is not None:
        yield from (StageAt(name, number) for name in ("answer_heldout", "evaluate"))
    for name in benchmarks:
        yield from benchmark_stages(name, number)


def _trained(run: RunFolder) -> list[int]:
    return [number for number in range(run.config.run.rounds + 1) if run.holds(StageAt("train", number))]
