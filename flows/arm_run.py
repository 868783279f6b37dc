"""One run of a comparison, from what is planned to its last student: sized round by round before each training.

The mixture of a round is made, its tokens are counted, and it is made anew with another number of examples until they
fit the reference's; only then it is trained on. The sizes that were found stand in the run's own configuration, so that
the same command goes on from there. What another run of the run seed has made just so is taken over.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from flows.driver import Say, check_settings, hold_run, is_done
from tapir_core.comparison.matching import (
    MOST_TRIES,
    MorePlain,
    Size,
    buy_more,
    check_match,
    check_pool,
    is_match,
    is_matched,
    kept_sizes,
    next_examples,
    suited_batch_size,
    targets_of,
    trained_sizes,
    with_more,
    with_sizes,
)
from tapir_core.comparison.outcome import Training, read_training
from tapir_core.comparison.plan import RANDOM, ComparisonPlan, PlannedRun
from tapir_core.config import RunConfig
from tapir_core.errors import TapirError
from tapir_core.paths import RUN_RECORD
from tapir_core.run_files import take_over
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tapir_core.sweep import lacks_run
from tasks.input_files import gather_files

Distil = Callable[[RunFolder, str | None], object]
"""Distils an opened run to the end, or until a stage holds."""
Count = Callable[[RunFolder, int], Training]
"""What the training of a round of an opened run will come to, once its mixture holds."""


@dataclass(frozen=True, slots=True)
class _Drive:
    """One run, with all that its steps need."""

    plan: ComparisonPlan
    planned: PlannedRun
    distil: Distil
    count: Count
    say: Say
    config: RunConfig
    """Before its rounds are sized."""

    @contextmanager
    def open(self, sizes: Mapping[int, Size]) -> Iterator[RunFolder]:
        """Hold the run with these sizes; what it was opened with before is amended where only they differ.

        Raises:
            RunChanged: something else has changed since, a prompt that was edited meanwhile for one.
        """
        kept = kept_sizes(self.planned.ref)
        resized = any(kept[number] != size for number, size in sizes.items() if number in kept)
        if resized:
            with hold_run(with_sizes(self.config, kept), say=self.say):
                pass
        with hold_run(with_sizes(self.config, sizes), say=self.say, amend=resized) as run:
            for ref in _sources(self.plan, self.planned):
                if taken := take_over(RunFolder(ref), run):
                    self.say(f"{len(taken)} finished stages taken over from {ref.name}, up to {taken[-1]}")
            yield run


def drive_run(plan: ComparisonPlan, planned: PlannedRun, distil: Distil, count: Count, *, say: Say) -> None:
    """Distil one run of a comparison, when those that it needs are finished.

    Raises:
        TapirError: it cannot be matched, or as `distill`.
    """
    config = _config(plan, planned)
    check_settings(config, source=f"arm {planned.arm.name}")
    drive = _Drive(plan, planned, distil, count, say, config)
    targets = _targets(plan, planned)
    sizes = _sizes(plan, planned, config, targets)
    if planned.arm.match == "usd":
        _tell_bought(drive)
        _look_at_pool(drive, sizes)
    for number, target in targets.items():
        sizes = _match_round(drive, number, target, sizes)
    with drive.open(sizes) as run:
        if not is_done(run, None):
            distil(run, None)


def find_finished(plan: ComparisonPlan) -> list[PlannedRun]:
    """The runs for which nothing is left to do: done, as they are planned, and matched. Reads folders only."""
    finished: list[PlannedRun] = []
    for each in plan.runs:
        if all(needed in finished for needed in needed_by(plan, each)) and is_finished(plan, each):
            finished.append(each)
    return finished


def needed_by(plan: ComparisonPlan, planned: PlannedRun) -> list[PlannedRun]:
    """Runs of the same run seed that must be finished before."""
    needed = {"reference": (), "usd": (plan.reference, RANDOM)}.get(planned.arm.match, (plan.reference,))
    return [plan.run(arm, planned.run_seed) for arm in needed]


def is_finished(plan: ComparisonPlan, planned: PlannedRun) -> bool:
    """Whether nothing is left to do for a run whose needed ones are finished. Reads its folder only."""
    run = RunFolder(planned.ref)
    if not run.storage.exists(RUN_RECORD):
        return False
    config, targets = _config(plan, planned), _targets(plan, planned)
    config = with_sizes(config, _sizes(plan, planned, config, targets))
    if lacks_run(config, gather_files(config)):
        return False
    return is_matched(planned.arm, _trainings(run), _trainings(_reference(plan, planned)))


def _match_round(drive: _Drive, number: int, target: Training, sizes: dict[int, Size]) -> dict[int, Size]:
    """Make the mixture of a round until it fits; the sizes with which it does."""
    name, at, usual = drive.planned.ref.name, StageAt("mix", number), drive.config.batch_size(number)
    for tries in range(1, MOST_TRIES + 1):
        with drive.open(sizes) as run:
            trained = run.holds(StageAt("train", number)) is not None
            # An earlier start may have begun to train on it: a mixture that may be trained on is not given up.
            kept = trained or run.holds(at) is not None
            if not kept:
                drive.distil(run, f"mix@{number}")
                _check_made(run, at)
            made = read_training(run, number) if trained else drive.count(run, number)
        if is_match(target, made, tries=MOST_TRIES if kept else tries):
            batch_size = suited_batch_size(target, made.examples, made.epochs, usual)
            drive.say(f"{name}, round {number}: {made.tokens:,} tokens for {target.tokens:,} of the reference")
            return sizes | {number: Size(sizes[number].examples, batch_size)}
        if tries < MOST_TRIES:
            examples = next_examples(target, made, sizes[number].examples)
            drive.say(
                f"{name}, round {number}: {made.tokens:,} tokens for {target.tokens:,}; {examples:,} examples in place "
                f"of {sizes[number].examples:,}"
            )
            sizes = sizes | {number: Size(examples, suited_batch_size(target, examples, made.epochs, usual))}
    check_match(f"round {number} of {name}", target, made, sizes[number].examples)
    return sizes


def _check_made(run: RunFolder, at: StageAt) -> None:
    if run.holds(at) is None:
        why = summarise(run).stopped or "it ended without"
        raise TapirError(f"run {run.ref.name!r} has no {at}: {why}; arms are compared over equally many rounds")


def _tell_bought(drive: _Drive) -> None:
    """How large equal USD makes the arm, before anything is asked for it."""
    more, rounds = _bought(drive.plan, drive.planned)
    trained = sum(each.examples for each in rounds.values())
    enough = f" of the {more.affordable:,} that equal USD buys" if more.instructions < more.affordable else ""
    drive.say(
        f"{drive.planned.ref.name}: {more.instructions:,} more instructions{enough}, for {more.usd:.4f} USD; it trains "
        f"on {trained + more.instructions:,} examples, random on {trained:,}"
    )


def _look_at_pool(drive: _Drive, sizes: dict[int, Size]) -> None:
    """Refuse a pool that lacks what is bought, before a call is made for it."""
    with drive.open(sizes) as run:
        if run.holds(StageAt("pool")) is None:
            drive.distil(run, "pool")
        manifest = run.manifest(StageAt("pool"))
        assert manifest is not None
        check_pool(drive.config, manifest.rows)


def _config(plan: ComparisonPlan, planned: PlannedRun) -> RunConfig:
    """The run's configuration before its rounds are sized."""
    config = plan.config(planned)
    return with_more(config, *_bought(plan, planned)) if planned.arm.match == "usd" else config


def _bought(plan: ComparisonPlan, planned: PlannedRun) -> tuple[MorePlain, dict[int, Size]]:
    """What equal USD buys, and what random trained on in each round."""
    random, most = RunFolder(plan.run(RANDOM, planned.run_seed).ref), plan.comparison.equal_usd_at_most
    rounds, pool = trained_sizes(random.config, _trainings(random)), random.manifest(StageAt("pool"))
    assert pool is not None
    enough = None if most is None else round((most - 1) * sum(each.examples for each in rounds.values()))
    prices = plan.comparison.prices
    return buy_more(_reference(plan, planned), random, pool=pool.rows, prices=prices, enough=enough), rounds


def _sizes(
    plan: ComparisonPlan, planned: PlannedRun, config: RunConfig, targets: Mapping[int, Training]
) -> dict[int, Size]:
    """Of each round with a target the size found so far, else as many examples as the reference was asked for.

    One round in place of all of the reference's begins with the examples of all, each as often as it was gone through,
    spread over its own epochs.
    """
    if not targets:
        return {}
    kept, reference = kept_sizes(planned.ref), _reference(plan, planned)
    rounds = {number: reference.config.round(number) for number in _trainings(reference) if number}
    first = {number: each.examples for number, each in rounds.items()}
    if planned.arm.match == "whole":
        passes = sum(each.examples * each.epochs for each in rounds.values())
        first = {1: max(1, round(passes / config.round(1).epochs))}
    return {number: kept.get(number) or Size(first[number], config.batch_size(number)) for number in targets}


def _reference(plan: ComparisonPlan, planned: PlannedRun) -> RunFolder:
    """Run of the same run seed that the others are matched to."""
    return RunFolder(plan.run(plan.reference, planned.run_seed).ref)


def _targets(plan: ComparisonPlan, planned: PlannedRun) -> dict[int, Training]:
    if planned.arm.match == "reference":
        return {}
    return targets_of(planned.arm, _trainings(_reference(plan, planned)))


def _sources(plan: ComparisonPlan, planned: PlannedRun) -> Iterator[RunRef]:
    """Earlier runs of the same run seed."""
    for each in plan.runs:
        if each == planned:
            return
        if each.run_seed == planned.run_seed and RunFolder(each.ref).storage.exists(RUN_RECORD):
            yield each.ref


def _trainings(run: RunFolder) -> dict[int, Training]:
    return {number: read_training(run, number) for number in run.trained_rounds}
