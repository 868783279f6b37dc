"""How far a run is, from its manifests and scores alone: cheap enough for every run of a root, also while it works."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean

from tapir_core.data.dataset import Manifest
from tapir_core.estimate.types import load_estimate
from tapir_core.paths import BACKBONE, ESTIMATE
from tapir_core.run_state import state_of
from tapir_core.stages import EXPAND, STAGES, StageAt, lines, plan
from tapir_core.summary import heldout_scores
from tapir_core.summary.run_reader import Look
from tapir_core.summary.types import RoundSummary, Score


@dataclass(frozen=True, slots=True)
class RunProgress:
    """One look at a run."""

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


def read_progress(look: Look) -> RunProgress:
    """What `tapir status` says of a run."""
    config = look.run.config
    manifests = {at: look.manifest(at) for at in plan(config)}
    state = state_of(look.run, look.seen)
    student, split, score = _last_score(look)
    return RunProgress(
        {at: None if manifest is None else manifest.rows for at, manifest in manifests.items()},
        next_stage=state.next_stage,
        stopped=state.stopped,
        student=student,
        split=split,
        score=score,
        seconds_left=0.0 if state.stopped else _seconds_left(look),
    )


def _last_score(look: Look) -> tuple[int | None, str, Score | None]:
    for number in range(look.run.config.run.rounds, BACKBONE - 1, -1):
        for split in ("test", "dev"):
            score = RoundSummary(number, scores=heldout_scores(look, number)).score(split)
            if score is not None:
                return number, split, score
    return None, "", None


def _seconds_left(look: Look) -> float | None:
    """What the stages that are left took before in this run, or else what the run's estimate says of them.

    Stages that overlap count in full. Nothing where a stage of some length was never done and never estimated.
    """
    took: dict[str, list[float]] = defaultdict(list)
    planned: dict[str, int] = defaultdict(int)
    left = []
    for at in plan(look.run.config):
        planned[at.name] += 1
        if (manifest := look.manifest(at)) is None:
            left.append(at.name)
        # What was taken over from another run took no time here.
        elif seconds := _took(look, at, manifest):
            took[at.name].append(seconds)
    means = {name: fmean(seconds) for name, seconds in took.items()}
    # What a quick stage will take is not counted before the first of them was seen.
    quick = {name: 0.0 for name, stage in STAGES.items() if stage.is_quick}
    expected = quick | _estimated(look, planned) | means
    return sum(expected[name] for name in left) if expected.keys() >= set(left) else None


def _took(look: Look, at: StageAt, manifest: Manifest) -> float:
    if at.name == EXPAND.name:  # most of it lies in the waves
        return sum(stage.seconds for stage in look.summarise_stages((at.name,), at.number))
    return manifest.counts.get("seconds", 0.0)


def _estimated(look: Look, planned: dict[str, int]) -> dict[str, float]:
    """Stage → likely seconds of one of it, of what the run's kept estimate knows."""
    storage = look.run.storage
    if not storage.exists(ESTIMATE):
        return {}
    stages = load_estimate(storage.read_bytes(ESTIMATE)).stages
    known = lines()
    hours = {known[each.name].rows_of: each.hours for each in stages}
    return {name: 3600 * span.likely / planned[name] for name, span in hours.items() if span and planned.get(name)}
