"""The runs of a comparison in the order in which they are made, with the sizes that were found for them so far.

A run's sizes stand in its own configuration: what is read from there is looked for no more, and everything else of it
must be what the comparison says, so that a changed comparison is refused under the old name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapir_core.comparison.arms import Arm, arm_config, arms_of
from tapir_core.comparison.figures import RANDOM
from tapir_core.comparison.matching import Target, is_near
from tapir_core.comparison.outcome import Training
from tapir_core.config import RunConfig
from tapir_core.config.load import replace_values
from tapir_core.config.presets import ComparisonConfig, load_comparison
from tapir_core.errors import ConfigError
from tapir_core.paths import RUN_RECORD
from tapir_core.run_folder import RunFolder, RunRef

__all__ = [
    "ComparisonPlan",
    "PlannedRun",
    "Size",
    "is_matched",
    "kept_sizes",
    "open_comparison",
    "targets_of",
    "with_sizes",
]


@dataclass(frozen=True, slots=True)
class Size:
    """What is asked for of one round."""

    examples: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One arm with one run seed."""

    arm: Arm
    run_seed: int
    ref: RunRef


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """What is to be run."""

    comparison: ComparisonConfig
    overrides: tuple[str, ...]
    """Of the command line, for all arms."""
    arms: tuple[Arm, ...]
    """The reference first."""
    root: str

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """Every run: of primary arms, a run seed at a time, reference and random first; then of exploratory arms."""
        runs = [
            PlannedRun(arm, seed, RunRef(self.root, self.comparison.run_name(arm.name, seed)))
            for seed in self.comparison.run_seeds
            for arm in sorted(self.arms, key=self._rank)
            if seed in self.comparison.seeds_of(arm.name)
        ]
        return tuple(sorted(runs, key=lambda each: each.arm.exploratory))

    def run(self, arm: str, run_seed: int) -> PlannedRun:
        """The run of an arm with a run seed."""
        return next(each for each in self.runs if (each.arm.name, each.run_seed) == (arm, run_seed))

    @property
    def reference(self) -> str:
        """The arm that others are matched to."""
        return self.arms[0].name

    def config(self, planned: PlannedRun) -> RunConfig:
        """The configuration of a run before its sizes are matched."""
        return arm_config(self.comparison, planned.arm, planned.run_seed, self.overrides)

    def choose(self, arms: Sequence[str], run_seeds: Sequence[int]) -> tuple[PlannedRun, ...]:
        """The runs of these arms and run seeds; all of them where nothing is named.

        Raises:
            ConfigError: there is no such arm or run seed.
        """
        known, seeds = [arm.name for arm in self.arms], self.comparison.run_seeds
        strange = [name for name in arms if name not in known]
        problems = [f"--only {name}: no arm of this comparison; it has {', '.join(known)}" for name in strange]
        told = ", ".join(map(str, seeds))
        problems += [f"--run-seeds {each}: this comparison has {told}" for each in run_seeds if each not in seeds]
        if problems:
            raise ConfigError(problems)
        return tuple(
            each
            for each in self.runs
            if (not arms or each.arm.name in arms) and (not run_seeds or each.run_seed in run_seeds)
        )

    def _rank(self, arm: Arm) -> int:
        return {self.reference: 0, RANDOM: 1}.get(arm.name, 2)


def open_comparison(path: str | Path, overrides: Sequence[str] = ()) -> ComparisonPlan:
    """Read what is compared, and the configuration of every arm.

    Raises:
        ConfigError: the comparison or the configuration of an arm is wrong; nothing has started.
    """
    comparison = load_comparison(path)
    arms = tuple(arms_of(comparison))
    given = tuple(overrides)
    first = [arm_config(comparison, arm, comparison.run_seeds[0], given) for arm in arms]
    if first[0].data.heldout is None:
        raise ConfigError("data.heldout: missing; arms are compared by held-out scores", source=comparison.config)
    return ComparisonPlan(comparison, given, arms, first[0].run.root)


def targets_of(arm: Arm, reference: Mapping[int, Training]) -> dict[int, Target]:
    """Round of the arm → what it must train on; none of an arm that is not matched by tokens.

    Args:
        arm: which.
        reference: trainings of the reference by round, S_0 included.
    """
    rounds = {number: each for number, each in sorted(reference.items()) if number}
    if arm.match == "whole":
        return {1: Target(sum(each.tokens for each in rounds.values()), sum(each.steps for each in rounds.values()))}
    if arm.match == "rounds":
        return {number: Target(each.tokens, each.steps) for number, each in rounds.items()}
    return {}


def is_matched(arm: Arm, trained: Mapping[int, Training], reference: Mapping[int, Training]) -> bool:
    """Whether a run of the arm trained on what it must, in each round; both as round → training, S_0 included."""
    return all(
        number in trained and is_near(target, trained[number].tokens, trained[number].steps)
        for number, target in targets_of(arm, reference).items()
    )


def with_sizes(config: RunConfig, sizes: Mapping[int, Size]) -> RunConfig:
    """The configuration with these rounds, and no more of them."""
    settings = [f"run.rounds={max(sizes)}"] if sizes else []
    for number, size in sizes.items():
        settings += [f"rounds.{number}.examples={size.examples}", f"rounds.{number}.batch_size={size.batch_size}"]
    return replace_values(config, settings)


def kept_sizes(ref: RunRef) -> dict[int, Size]:
    """The sizes that stand in a run's folder; none where there is no run yet."""
    run = RunFolder(ref)
    if not run.storage.exists(RUN_RECORD):
        return {}
    config = run.config
    return {number: Size(config.round(number).examples, config.batch_size(number)) for number in config.round_numbers}
