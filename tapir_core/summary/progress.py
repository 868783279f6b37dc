"""How far a run is, as `tapir status` says: from manifests and scores alone.

That is cheap enough for every run of a root, also while it works.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from tapir_core import stages
from tapir_core.paths import BACKBONE
from tapir_core.run_state import state_of
from tapir_core.stages import StageAt
from tapir_core.summary.reader import RunReader
from tapir_core.summary.types import RoundSummary, Score


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


def read_progress(reader: RunReader, likely_hours: Mapping[str, float]) -> RunProgress:
    """What `tapir status` says of a run; ``likely_hours`` are what its estimate expects of each stage, over the run."""
    config = reader.run.config
    manifests = {at: reader.manifest(at) for at in stages.plan(config)}
    state = state_of(reader.run, reader.seen)
    numbers = range(config.run.rounds, BACKBONE - 1, -1)
    scored = (RoundSummary(number, scores=reader.rows(stages.EVALUATE.at(number))) for number in numbers)
    scores = ((each.number, split, each.score(split)) for each in scored for split in ("test", "dev"))
    student, split, score = next((found for found in scores if found[2] is not None), (None, "", None))
    return RunProgress(
        {at: None if manifest is None else manifest.rows for at, manifest in manifests.items()},
        next_stage=state.next_stage,
        stopped=state.stopped,
        student=student,
        split=split,
        score=score,
        seconds_left=0.0 if state.stopped else _seconds_left(reader, likely_hours),
    )


def _seconds_left(reader: RunReader, likely_hours: Mapping[str, float]) -> float | None:
    """What the stages that are left took before in this run, or else what the run's estimate says of them.

    Stages that overlap count in full. Nothing where a stage of some length was never done and never estimated.
    """
    planned: dict[str, list[StageAt]] = defaultdict(list)
    took: dict[str, list[float]] = defaultdict(list)
    left = []
    for at in stages.plan(reader.run.config):
        planned[at.name].append(at)
        if (manifest := reader.manifest(at)) is None:
            left.append(at.name)
            continue
        seconds = manifest.counts.get("seconds", 0.0)
        if at.name == stages.EXPAND.name:  # most of it lies in the waves
            seconds = sum(stage.seconds for stage in reader.summarise_stages((at.name,), at.number))
        if seconds:  # what was taken over from another run took no time here
            took[at.name].append(seconds)
    # What a quick stage will take is not counted before the first of them was seen.
    expected = {name: 0.0 for name, stage in stages.STAGES.items() if not stage.asks and not stage.trains}
    expected |= {name: 3600 * hours / len(planned[name]) for name, hours in likely_hours.items() if name in planned}
    expected |= {name: fmean(seconds) for name, seconds in took.items()}
    return sum(expected[name] for name in left) if expected.keys() >= set(left) else None
