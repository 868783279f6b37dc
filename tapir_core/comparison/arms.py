"""The ready arms: what each changes in the curriculum, and what it is matched by. Pure functions on configurations.

An arm differs from the curriculum (`multi_round`) in the one thing that its name says; sizes that make arms comparable
are found while they run (`tapir_core.comparison.matching`).

Limits: an ablation leaves out one ingredient of the curriculum as it is configured. What that curriculum does not use
cannot be left out of it, and is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tapir_core.config import RunConfig
from tapir_core.config.load import load_config, replace_values
from tapir_core.config.presets import ArmEntry, ComparisonConfig
from tapir_core.errors import ConfigError

__all__ = ["READY", "Arm", "Match", "arm_config", "arms_of"]

Match = Literal["reference", "rounds", "whole", "usd"]
"""What an arm is matched by: nothing (it is what others are matched to), tokens and steps of each round, those of all
rounds together, or what calls cost."""

_NO_CURRICULUM = ("random", "random_balanced", "random_once", "equal_usd", "hard_only")

NATURAL = 'curriculum.target_shares="natural"'


@dataclass(frozen=True, slots=True)
class _Ready:
    label: str
    settings: Callable[[RunConfig], list[str]]
    """From a configuration whose rounds are spelled out to what the arm changes in it, as `--set` writes it."""
    match: Match = "rounds"


@dataclass(frozen=True, slots=True)
class Arm:
    """One training recipe of a comparison."""

    name: str
    label: str
    match: Match
    exploratory: bool
    """With one run seed, and without a verdict."""


def arms_of(comparison: ComparisonConfig) -> list[Arm]:
    """The arms of a comparison, the reference first.

    Raises:
        ConfigError: an arm is neither a ready one nor has settings of its own, or the reference cannot be one.
    """
    problems = [problem for name in comparison.names for problem in _problems(comparison, name)]
    if problems:
        raise ConfigError(problems, source=f"comparison {comparison.name}")
    arms = []
    for name in comparison.names:
        ready, entry = READY[_like(comparison, name)], comparison.arms.get(name, ArmEntry())
        match: Match = "reference" if name == comparison.reference else ready.match
        label = entry.label or (_label(comparison, name) if name in READY else name.replace("_", " "))
        arms.append(Arm(name, label, match, name in comparison.exploratory))
    return arms


def arm_config(comparison: ComparisonConfig, arm: Arm, run_seed: int, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The configuration of an arm's run, before its sizes are matched: every round has an entry with every field.

    Args:
        comparison: what is compared.
        arm: one of its arms.
        run_seed: one of its run seeds.
        overrides: of the command line, for all arms; what the file says of the arm wins over them.

    Raises:
        ConfigError: the configuration is wrong, or the arm cannot be made of it.
    """
    entry = comparison.arms.get(arm.name, ArmEntry())
    own = [*comparison.overrides, *overrides, *entry.overrides, f"run.seed={run_seed}"]
    config = _spell_out_rounds(load_config(comparison.config, own, comparison.run_name(arm.name, run_seed)))
    made = replace_values(config, READY[_like(comparison, arm.name)].settings(config), source=f"arm {arm.name}")
    if made == config and arm.match != "reference" and not entry.overrides:
        raise ConfigError(
            f"arm {arm.name}: the curriculum of {comparison.config} is this already, so that it would be compared with "
            "itself; leave the arm out, or change the curriculum"
        )
    return made


def _like(comparison: ComparisonConfig, name: str) -> str:
    """The ready arm that an arm begins with."""
    entry = comparison.arms.get(name, ArmEntry())
    return entry.like or (name if name in READY else "multi_round")


def _label(comparison: ComparisonConfig, ready: str) -> str:
    """What a ready arm is called; one that may not spend all of it is not called equal."""
    most = comparison.equal_usd_at_most
    limited = READY[ready].match == "usd" and most is not None
    return f"Random, {most:g} × its examples, for at most equal USD" if limited else READY[ready].label


def _problems(comparison: ComparisonConfig, name: str) -> list[str]:
    entry = comparison.arms.get(name)
    known = ", ".join(READY)
    if entry is not None and entry.like is not None and entry.like not in READY:
        return [f"arms.{name}.like: {entry.like!r} is no ready arm; they are {known}"]
    if name not in READY and (entry is None or (entry.like is None and not entry.overrides)):
        return [f"arm {name!r} is none of the ready ones ({known}); say in [arms.{name}] what it changes"]
    if name == comparison.reference and _like(comparison, name) in _NO_CURRICULUM:
        return [f"reference: {name!r} is no curriculum of several rounds, and others are matched to it round by round"]
    return []


def _spell_out_rounds(config: RunConfig) -> RunConfig:
    """The same with an entry for each round, so that one can be changed without touching those after it."""
    entries = {str(number): config.round(number).model_dump(mode="json") for number in config.round_numbers}
    return RunConfig.model_validate({**config.model_dump(mode="json"), "rounds": entries})


def _each_round(config: RunConfig, *settings: str) -> list[str]:
    return [f"rounds.{number}.{setting}" for number in config.round_numbers for setting in settings]


def _random(config: RunConfig) -> list[str]:
    return _each_round(config, 'selection={type="random", share=0.0}', "alpha=0.0")


def _no_mfd(config: RunConfig) -> list[str]:
    rules = {number: config.round(number).selection for number in config.round_numbers}
    settings = []
    for number, rule in rules.items():
        if not rule.reads_difficulty or rule.fixed_share is None:
            raise ConfigError(
                f'arm no_mfd: rounds.{number}.selection is "{rule.type}", which says no share of the pool that could '
                'be drawn at random; use selection = { type = "hard_share", share = … }'
            )
        settings.append(f'rounds.{number}.selection={{type="random", share={rule.fixed_share}}}')
    return settings


def _constant_alpha(config: RunConfig) -> list[str]:
    alphas = [config.round(number).alpha or 0.0 for number in config.round_numbers]
    return _each_round(config, f"alpha={round(sum(alphas) / len(alphas), 9)}")


READY: dict[str, _Ready] = {
    "multi_round": _Ready("Multi-round curriculum (TAPIR-M)", lambda _: []),
    "random": _Ready("Random", lambda config: [*_random(config), NATURAL]),
    "random_balanced": _Ready("Random, balanced by task type", _random),
    "hard_only": _Ready(
        "Hard only, one round (TAPIR-S)", lambda _: ["run.rounds=1", "rounds.1.alpha=1.0"], match="whole"
    ),
    "random_once": _Ready(
        "Random, one round", lambda config: [*_random(config), NATURAL, "run.rounds=1"], match="whole"
    ),
    "equal_usd": _Ready("Random at equal USD", lambda config: [*_random(config), NATURAL], match="usd"),
    "no_mfd": _Ready("Without MFD: seeds at random", _no_mfd),
    "no_balance": _Ready("Without balance: natural shares", lambda _: [NATURAL]),
    "no_expansion": _Ready("Without expansion", lambda _: ["curriculum.expansion.max_waves=0"]),
    "no_refinement": _Ready("Without refinement", lambda _: ["curriculum.refine=false"]),
    "constant_alpha": _Ready("Without rising α: its mean in each round", _constant_alpha),
    "no_rejudging": _Ready("Without re-judging: MFD of round 1", lambda _: ["curriculum.rejudge=false"]),
}
"""Every ready arm by name."""
