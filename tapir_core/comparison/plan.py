"""What is compared: the ready arms, the runs of a comparison in the order in which they are made.

Pure functions on configurations. An arm differs from the curriculum (`multi_round`) in the one thing that its name
says; sizes that make arms comparable are found while they run (`tapir_core.comparison.matching`).

Limits: an ablation leaves out one ingredient of the curriculum as it is configured. What that curriculum does not use
cannot be left out of it, and is refused.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from tapir_core import errors, run_folder, sources
from tapir_core.config import Imitate, RunConfig, load, presets

Match = Literal["reference", "rounds", "whole", "usd"]
"""What an arm is matched by: nothing (it is what others are matched to), tokens and steps of each round, those of all
rounds together, or what calls cost."""

RANDOM = "random"
"""The arm that all others are set against."""

_NATURAL = 'curriculum.target_shares="natural"'


@dataclass(frozen=True, slots=True)
class ReadyArm:
    """An arm that needs no settings of its own."""

    label: str
    settings: Callable[[RunConfig], list[str]]
    """From a configuration whose rounds are spelled out to what the arm changes in it, as `--set` writes it."""
    match: Match = "rounds"
    is_curriculum: bool = True
    """Whether it is one of several rounds, as a reference has to be."""
    only_imitates: bool = False
    """Whether it does without verdicts, from which other objectives learn."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One training recipe of a comparison."""

    name: str
    label: str
    match: Match
    exploratory: bool
    """With one run seed, and without a verdict."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One arm with one run seed."""

    arm: Arm
    run_seed: int
    ref: run_folder.RunRef


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """What is to be run."""

    comparison: presets.ComparisonConfig
    overrides: tuple[str, ...]
    """Of the command line, for all arms."""
    arms: tuple[Arm, ...]
    """The reference first."""
    root: str

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """Every run: of primary arms, a run seed at a time, reference and random first; then of exploratory arms."""
        rank = {self.reference: 0, RANDOM: 1}
        runs = [
            PlannedRun(arm, seed, run_folder.RunRef(self.root, self.comparison.run_name(arm.name, seed)))
            for seed in self.comparison.run_seeds
            for arm in sorted(self.arms, key=lambda arm: rank.get(arm.name, 2))
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

    def needs(self, planned: PlannedRun) -> list[PlannedRun]:
        """Runs of the same run seed that must be finished before: the reference, and for equal USD random."""
        arms = {"reference": (), "usd": (self.reference, RANDOM)}.get(planned.arm.match, (self.reference,))
        return [self.run(arm, planned.run_seed) for arm in arms]

    def config(self, planned: PlannedRun) -> RunConfig:
        """The configuration of a run before its sizes are matched."""
        return arm_config(self.comparison, planned.arm, planned.run_seed, self.overrides)

    def choose(self, arms: Sequence[str], run_seeds: Sequence[int]) -> tuple[PlannedRun, ...]:
        """The runs of these arms and run seeds; all of them where nothing is named.

        Raises:
            ConfigError: there is no such arm or run seed.
        """
        seeds, known = self.comparison.run_seeds, self.comparison.names
        problems = [
            *(
                f"--only {each}: no arm of this comparison; it has {', '.join(known)}"
                for each in arms
                if each not in known
            ),
            *(
                f"--run-seeds {each}: this comparison has {', '.join(map(str, seeds))}"
                for each in run_seeds
                if each not in seeds
            ),
        ]
        if problems:
            raise errors.ConfigError(problems)
        return tuple(
            each
            for each in self.runs
            if (not arms or each.arm.name in arms) and (not run_seeds or each.run_seed in run_seeds)
        )


def open_comparison(path: str | Path, overrides: Sequence[str] = ()) -> ComparisonPlan:
    """Read what is compared, and the configuration of every arm.

    Raises:
        ConfigError: the comparison or the configuration of an arm is wrong; nothing has started.
    """
    comparison = presets.load_comparison(path)
    arms = tuple(arms_of(comparison))
    given = tuple(overrides)
    first = [arm_config(comparison, arm, comparison.run_seeds[0], given) for arm in arms]
    if first[0].data.references is None:
        judged = first[0].data.judged
        remedy = 'set data.heldout.references = "…"' if judged else 'data.heldout = { type = "file", path = "…" }'
        raise errors.ConfigError(
            f"data.heldout: {'has no references' if judged else 'missing'}; arms are compared by the accuracy on a "
            f"held-out set whose rows have a `reference`. Name a file of such rows: {remedy}",
            source=comparison.config,
        )
    return ComparisonPlan(comparison, given, arms, first[0].run.root)


def arms_of(comparison: presets.ComparisonConfig) -> list[Arm]:
    """The arms of a comparison, the reference first.

    Raises:
        ConfigError: an arm is neither a ready one nor has settings of its own, or the reference cannot be one.
    """
    if problems := [*filter(None, (_problem(comparison, name) for name in comparison.names))]:
        raise errors.ConfigError(problems, source=f"comparison {comparison.name}")
    return [
        Arm(
            name,
            _label(comparison, name),
            "reference" if name == comparison.reference else _begins_with(comparison, name).match,
            name in comparison.exploratory,
        )
        for name in comparison.names
    ]


def arm_config(
    comparison: presets.ComparisonConfig, arm: Arm, run_seed: int, overrides: tuple[str, ...] = ()
) -> RunConfig:
    """The configuration of an arm's run, before its sizes are matched: every round has an entry with every field.

    Args:
        comparison: what is compared.
        arm: one of its arms.
        run_seed: one of its run seeds.
        overrides: of the command line, for all arms; what the file says of the arm wins over them.

    Raises:
        ConfigError: the configuration is wrong, or the arm cannot be made of it.
    """
    entry = comparison.arms.get(arm.name, presets.ArmEntry())
    read = load.load_config(
        comparison.config,
        [*comparison.overrides, *overrides, *entry.overrides, f"run.seed={run_seed}"],
        comparison.run_name(arm.name, run_seed),
    )
    config, ready = load.spell_out_rounds(sources.settle_sizes(read)[0]), _begins_with(comparison, arm.name)
    for number in config.round_numbers if ready.only_imitates else ():
        if config.objective(number).reads_answers:
            raise errors.ConfigError(
                f'arm {arm.name}: rounds.{number}.objective is "{config.objective(number).type}", which learns from '
                "the verdicts that this arm does without; leave the arm out"
            )
    made = load.replace_values(config, ready.settings(config), source=f"arm {arm.name}")
    if made == config and arm.match != "reference" and not entry.overrides:
        raise errors.ConfigError(
            f"arm {arm.name}: the curriculum of {comparison.config} is this already, so that it would be compared with "
            "itself; leave the arm out, or change the curriculum"
        )
    return made


def _begins_with(comparison: presets.ComparisonConfig, name: str) -> ReadyArm:
    """The ready arm that an arm begins with: the one that it names, else that of its own name, else the curriculum."""
    return READY[comparison.arms.get(name, presets.ArmEntry()).like or (name if name in READY else "multi_round")]


def _label(comparison: presets.ComparisonConfig, name: str) -> str:
    """What an arm is called; one that may not spend all of it is not called equal."""
    own, most = comparison.arms.get(name, presets.ArmEntry()).label, comparison.equal_usd_at_most
    if own or name not in READY:
        return own or name.replace("_", " ")
    if READY[name].match == "usd" and most is not None:
        return f"Random, {most:g} × its examples, for at most equal USD"
    return READY[name].label


def _problem(comparison: presets.ComparisonConfig, name: str) -> str:
    """What is wrong with an arm; empty where nothing is."""
    entry, known = comparison.arms.get(name, presets.ArmEntry()), ", ".join(READY)
    if entry.like is not None and entry.like not in READY:
        return f"arms.{name}.like: {entry.like!r} is no ready arm; they are {known}"
    if not (name in READY or entry.like or entry.overrides):
        return f"arm {name!r} is none of the ready ones ({known}); say in [arms.{name}] what it changes"
    if name == comparison.reference and not _begins_with(comparison, name).is_curriculum:
        return f"reference: {name!r} is no curriculum of several rounds, and others are matched to it round by round"
    return ""


def _random(config: RunConfig) -> list[str]:
    """Plain fine-tuning: a round that learns otherwise imitates, as the first one does that imitates anyway."""
    imitating = [number for number in config.round_numbers if config.objective(number) == Imitate()]
    first = config.round(imitating[0]) if imitating else config.basic_tuning
    rate = "" if first.learning_rate is None else first.learning_rate
    drawn = ['selection={type="random", share=0.0}', "alpha=0.0"]
    plain = [*drawn, 'objective="imitate"', f"learning_rate={json.dumps(rate)}", f"epochs={first.epochs}"]
    return [
        f"rounds.{number}.{each}"
        for number in config.round_numbers
        for each in (drawn if number in imitating else plain)
    ]


def _no_mfd(config: RunConfig) -> list[str]:
    settings = []
    for number in config.round_numbers:
        rule = config.round(number).selection
        if not rule.reads_difficulty or rule.fixed_share is None:
            raise errors.ConfigError(
                f'arm no_mfd: rounds.{number}.selection is "{rule.type}", which says no share of the pool that could '
                'be drawn at random; use selection = { type = "hard_share", share = … }'
            )
        settings.append(f'rounds.{number}.selection={{type="random", share={rule.fixed_share}}}')
    return settings


_ONE_ROUND = ("run.rounds=1", 'student.average=""')


def _constant_alpha(config: RunConfig) -> list[str]:
    mixed = [number for number in config.round_numbers if not config.objective(number).reads_answers]
    alpha = fmean([config.round(number).alpha or 0.0 for number in mixed] or [1.0])
    return [f"rounds.{number}.alpha={round(alpha, 9)}" for number in mixed]


READY: dict[str, ReadyArm] = {
    "multi_round": ReadyArm("Multi-round curriculum (TAPIR-M)", lambda _: []),
    "random": ReadyArm("Random", lambda config: [*_random(config), _NATURAL], is_curriculum=False),
    "random_balanced": ReadyArm("Random, balanced by task type", _random, is_curriculum=False),
    "hard_only": ReadyArm(
        "Hard only, one round (TAPIR-S)",
        lambda _: [*_ONE_ROUND, "rounds.1.alpha=1.0"],
        match="whole",
        is_curriculum=False,
    ),
    "random_once": ReadyArm(
        "Random, one round",
        lambda config: [*_random(config), _NATURAL, *_ONE_ROUND],
        match="whole",
        is_curriculum=False,
    ),
    "equal_usd": ReadyArm(
        "Random at equal USD", lambda config: [*_random(config), _NATURAL], match="usd", is_curriculum=False
    ),
    "no_mfd": ReadyArm("Without MFD: seeds at random", _no_mfd, only_imitates=True),
    "no_balance": ReadyArm("Without balance: natural shares", lambda _: [_NATURAL]),
    "no_expansion": ReadyArm("Without expansion", lambda _: ["curriculum.expansion.max_waves=0"]),
    "no_refinement": ReadyArm("Without refinement", lambda _: ["curriculum.refine=false"]),
    "constant_alpha": ReadyArm("Without rising α: its mean in each round", _constant_alpha),
    "no_rejudging": ReadyArm(
        "Without re-judging: MFD of round 1", lambda _: ["curriculum.rejudge=false"], only_imitates=True
    ),
}
"""Every ready arm by name."""
