"""Which students of a run a person means, on which benchmarks, and whose scores do not stand. Reads only.

Models whose outputs to a benchmark are files stand beside the students.
"""

from collections.abc import Iterator, Sequence

from tapir_core.errors import ConfigError
from tapir_core.paths import BACKBONE
from tapir_core.run_folder import RunFolder
from tapir_core.stages import (
    BENCHMARK_REPLIES,
    EVALUATION,
    SCORE_COLUMNS,
    Compared,
    StageAt,
    benchmark_stages,
)
from tapir_core.summary import summarise
from tapir_core.summary.formats import student_name

_OUTPUTS = "outputs"
"""What a person says for all models of files."""


def find_students(run: RunFolder, which: str, benchmarks: Sequence[str] = ()) -> list[Compared]:
    """The rounds whose student is meant, and models of files by their names.

    ``which`` is `all`, `backbone`, `outputs` (the models alone), or what `find_student` takes.

    Raises:
        ConfigError: the run has no held-out set where no benchmark is meant, or no such student or model.
    """
    models = dict.fromkeys(model for name in benchmarks for model in models_of(run, name))
    if which == _OUTPUTS:
        if not models:
            having = [name for name in run.config.evaluation.judged if models_of(run, name)]
            raise ConfigError(
                f"--round {_OUTPUTS}: no benchmark that is asked has outputs of a model as a file; those of run "
                f"{run.ref.name!r} that have are {', '.join(having) or 'none'}: name them with --benchmark, or give "
                '[evaluation.benchmarks.NAME.outputs] a line `MODEL = "FILE"` and run the configuration again'
            )
        return [*models]
    if run.config.data.heldout is None and not benchmarks:
        raise ConfigError(
            f"run {run.ref.name!r} has no held-out set; set data.heldout and run it with --amend, or under a new name"
        )
    if which == "all":
        return [BACKBONE, *run.trained_rounds, *models]
    if which == student_name(BACKBONE):
        return [BACKBONE]
    return [find_student(run, which, others=(student_name(BACKBONE), *([_OUTPUTS] if models else [])))]


def find_student(run: RunFolder, which: str, *, others: Sequence[str] = ()) -> int:
    """The round whose trained student is meant: `best` (by the dev split), or the number of a round.

    Args:
        run: The run.
        which: What the user says.
        others: What the user might have said as well.

    Raises:
        ConfigError: the run has no such student.
    """
    students = {str(number): number for number in run.trained_rounds}
    best = summarise(run).best if which == "best" else None
    if which not in students and best not in students.values():
        why = (
            f" yet: it takes a dev split, and a round that is scored (`tapir evaluate {run.ref.name}` scores)"
            if which == "best"
            else ""
        )
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


def models_of(run: RunFolder, benchmark: str) -> list[str]:
    """Models whose outputs to a benchmark are files."""
    judged = run.config.evaluation.judged.get(benchmark)
    return [] if judged is None else [*judged.outputs]


def scoring_stages(run: RunFolder, compared: Sequence[Compared], benchmarks: Sequence[str]) -> list[StageAt]:
    """Everything that scoring these students and models takes."""
    return [at for who in compared for at in _stages_of(run, who, benchmarks)]


def unscored_students(
    run: RunFolder, compared: Sequence[Compared], benchmarks: Sequence[str] = (), *, also_terminal: bool = False
) -> list[Compared]:
    """Those of ``compared`` whose scores do not stand; with ``also_terminal`` those too of which judgments failed."""

    def is_unscored(at: StageAt) -> bool:
        if also_terminal and at.name == BENCHMARK_REPLIES.name and at.benchmark in run.config.evaluation.judged:
            return failed_judgments(run, at) > 0
        return at.stage.columns == SCORE_COLUMNS and run.holds(at) is None

    return [who for who in compared if any(map(is_unscored, _stages_of(run, who, benchmarks)))]


def failed_judgments(run: RunFolder, at: StageAt) -> int:
    """How many judgments of a benchmark failed for good, of those that lie sealed."""
    return 0 if run.holds(at) is None else run.rows(at).filter(status="failed").height


def _stages_of(run: RunFolder, who: Compared, benchmarks: Sequence[str]) -> Iterator[StageAt]:
    if isinstance(who, int):
        yield from (stage.at(who) for stage in EVALUATION if stage.when(run.config, stage.at(who)))
    for name in benchmarks:
        if isinstance(who, int) or who in models_of(run, name):
            yield from benchmark_stages(name, who)
