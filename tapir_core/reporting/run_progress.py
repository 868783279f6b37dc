"""How far a run is, which of its students a person means, and whose scores do not stand. Reads only.

What `tapir status` says comes from manifests and scores alone: cheap enough for every run of a root, also while it
works. Models whose outputs to a benchmark are files stand beside the students.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tapir_core.data.dataset import Manifest
from tapir_core.errors import ConfigError
from tapir_core.estimate.run import load_estimate
from tapir_core.paths import BACKBONE, ESTIMATE
from tapir_core.run_folder import RunFolder
from tapir_core.run_state import state_of
from tapir_core.stages import (
    BENCHMARK_REPLIES,
    EVALUATE,
    EVALUATION,
    EXPAND,
    STAGES,
    Compared,
    StageAt,
    benchmark_stages,
    lines,
    plan,
)
from tapir_core.summary import RunReader, heldout_scores, summarise
from tapir_core.summary.formats import student_name
from tapir_core.summary.types import RoundSummary, Score

_OUTPUTS = "outputs"
"""What a person says for all models of files."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """One reader at a run."""

    stages: dict[StageAt, int | None]
    """Planned stage → rows that it holds; nothing where it is not done."""
    next_stage: StageAt | None
    """Nothing of a run that is done or stopped."""
    stopped: str | None
    """Why the stop rule ended it."""
    student: int | None
    """The last student that was scored."""
    split: str
    score: Score | None
    """Its held-out accuracy, on the test split where there is one."""
    seconds_left: float | None
    """About; nothing where nobody can say, 0 of a run that is over."""


def read_progress(reader: RunReader) -> RunProgress:
    """What `tapir status` says of a run."""
    config = reader.run.config
    manifests = {at: reader.manifest(at) for at in plan(config)}
    state = state_of(reader.run, reader.seen)
    student, split, score = _last_score(reader)
    return RunProgress(
        {at: None if manifest is None else manifest.rows for at, manifest in manifests.items()},
        next_stage=state.next_stage,
        stopped=state.stopped,
        student=student,
        split=split,
        score=score,
        seconds_left=0.0 if state.stopped else _seconds_left(reader),
    )


def _last_score(reader: RunReader) -> tuple[int | None, str, Score | None]:
    numbers = range(reader.run.config.run.rounds, BACKBONE - 1, -1)
    scored = (RoundSummary(number, scores=heldout_scores(reader, number)) for number in numbers)
    scores = ((each.number, split, each.score(split)) for each in scored for split in ("test", "dev"))
    return next((found for found in scores if found[2] is not None), (None, "", None))


def _seconds_left(reader: RunReader) -> float | None:
    """What the stages that are left took before in this run, or else what the run's estimate says of them.

    Stages that overlap count in full. Nothing where a stage of some length was never done and never estimated.
    """
    took: dict[str, list[float]] = defaultdict(list)
    planned: dict[str, int] = defaultdict(int)
    left = []
    for at in plan(reader.run.config):
        planned[at.name] += 1
        if (manifest := reader.manifest(at)) is None:
            left.append(at.name)
        # What was taken over from another run took no time here.
        elif seconds := _took(reader, at, manifest):
            took[at.name].append(seconds)
    means = {name: fmean(seconds) for name, seconds in took.items()}
    # What a quick stage will take is not counted before the first of them was seen.
    quick = {name: 0.0 for name, stage in STAGES.items() if not stage.asks and not stage.trains}
    expected = quick | _estimated(reader, planned) | means
    return sum(expected[name] for name in left) if expected.keys() >= set(left) else None


def _took(reader: RunReader, at: StageAt, manifest: Manifest) -> float:
    if at.name == EXPAND.name:  # most of it lies in the waves
        return sum(stage.seconds for stage in reader.summarise_stages((at.name,), at.number))
    return manifest.counts.get("seconds", 0.0)


def _estimated(reader: RunReader, planned: dict[str, int]) -> dict[str, float]:
    """Stage → likely seconds of one of it, of what the run's kept estimate knows."""
    storage = reader.run.storage
    if not storage.exists(ESTIMATE):
        return {}
    stages = load_estimate(storage.read_bytes(ESTIMATE)).stages
    known = lines()
    hours = {known[each.name].name: each.hours for each in stages}
    return {name: 3600 * span.likely / planned[name] for name, span in hours.items() if span and planned.get(name)}


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
    stages = []
    for who in compared:
        if isinstance(who, int):
            stages += [stage.at(who) for stage in EVALUATION if stage.when(run.config, stage.at(who))]
        for name in benchmarks:
            if isinstance(who, int) or who in models_of(run, name):
                stages += benchmark_stages(name, who)
    return stages


def unscored_students(
    run: RunFolder, compared: Sequence[Compared], benchmarks: Sequence[str] = (), *, also_terminal: bool = False
) -> list[Compared]:
    """Those of ``compared`` whose scores do not stand; with ``also_terminal`` those too of which judgments failed."""

    def is_unscored(at: StageAt) -> bool:
        if also_terminal and at.name == BENCHMARK_REPLIES.name and at.benchmark in run.config.evaluation.judged:
            return failed_judgments(run, at) > 0
        return at.stage.columns == EVALUATE.columns and run.holds(at) is None

    return [who for who in compared if any(map(is_unscored, scoring_stages(run, [who], benchmarks)))]


def failed_judgments(run: RunFolder, at: StageAt) -> int:
    """How many judgments of a benchmark failed for good, of those that lie sealed."""
    return 0 if run.holds(at) is None else run.rows(at).filter(status="failed").height
