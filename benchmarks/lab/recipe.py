"""An experiment as data: its arms, the run configuration of each with each seed, and what tells two recipes apart.

All that the product has is said as the product says it: an arm is a run configuration, a ready arm of a comparison
(`like`) and settings over it. What the product lacks is a field of the arm: what is carried between rounds, which
student is exported, the schedule over all rounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt

from tapir_core.comparison.plan import READY, Match
from tapir_core.config import RunConfig, StandinEndpoint, StandinHeldout, StandinPool
from tapir_core.config._base import Section
from tapir_core.config.load import load_config, read_toml, replace_values, spell_out_rounds, validated
from tapir_core.errors import ConfigError
from tapir_core.standin import POOL_VERSION, STANDIN_VERSION
from tapir_core.text import digest

FORMAT = 1
"""Raised when the same recipe comes to something else by a change of the lab."""

Strings = Annotated[tuple[str, ...], Field(strict=False)]


class LabArm(Section):
    """One recipe."""

    label: str = ""
    """In words."""
    like: str = "multi_round"
    """The ready arm of a comparison that it begins with."""
    overrides: Strings = ()
    """Settings of its own, as `--set` writes them."""
    matched_to: str | None = None
    """The arm to whose tokens and steps its trainings are sized: round by round, or all of them where `like` is an arm
    of one round."""
    against: str | None = None
    """The arm that it is set against, in place of the reference."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Warm-up of the rounds' schedules, in place of `training.warmup_ratio`, which S_0 keeps: arms share one S_0."""
    carry_adam: bool = False
    """Whether a round goes on with the moments and the step count of the training before, S_0's first."""
    frontier: Annotated[int, Field(ge=0)] = 0
    """Answers drawn for each instruction of the pool, p of which the judge puts no lower than the teacher's; p(1 − p)
    then takes the place of the MFD. With 0 seeds are by MFD."""
    follow_shares: bool = False
    """Target shares follow the student's verdicts (`mixtures.following_shares`), in place of the configured ones."""
    next_from: Literal["last", "average"] = "last"
    """Where round r + 1 starts: at S_r, or at the mean of the weights of S_1..S_r."""
    schedule: Literal["round", "whole"] = "round"
    """One schedule of the rate a round, or one over all rounds together; its peak is then each round's own."""
    exports: Literal["last", "average", "consolidated"] = "last"
    """The student whose scores are the arm's: S_R, the mean of the weights of S_1..S_R, or S_0 trained once more on
    the union of the mixtures. The mean is marked in any case."""


class Experiment(Section):
    """Arms with seeds."""

    name: str
    question: str = ""
    """What it is to decide."""
    config: str
    """The run configuration that all arms begin with."""
    overrides: Strings = ()
    """Settings for all arms."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(strict=False, min_length=1)]
    """`run.seed` of each repetition: pool, held-out set and every draw derive from it."""
    reference: str
    """The arm that others are set against."""
    test_each_round: bool = False
    """Mark the test split after each round too, and not only of S_0 and of what may be exported."""
    arms: dict[str, LabArm]

    def ordered(self) -> list[str]:
        """The arms, those that others are matched to first."""
        needed = {arm.matched_to for arm in self.arms.values()}
        return sorted(self.arms, key=lambda name: name not in needed)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One arm with one seed."""

    experiment: Experiment
    name: str
    seed: int
    config: RunConfig
    """With an entry for each round, before anything is matched."""

    @property
    def arm(self) -> LabArm:
        """What the product has no setting for."""
        return self.experiment.arms[self.name]

    @property
    def match(self) -> Match:
        """By what it is sized."""
        kind = READY[self.arm.like].match
        return "reference" if self.arm.matched_to is None else "whole" if kind == "whole" else "rounds"

    @property
    def matched_to(self) -> "Recipe | None":
        """The recipe with the same seed that it is matched to."""
        return recipe_of(self.experiment, self.arm.matched_to, self.seed) if self.arm.matched_to else None

    @property
    def file_name(self) -> str:
        """Of its result."""
        return f"{self.experiment.name}-{self.name}-s{self.seed}.json"

    def digest(self, backbone: str) -> str:
        """Of all that a result follows from, but for the libraries; ``backbone`` is its identity."""
        own = self.config.shaping()
        # Without defaults: a field that is added changes no recipe that lacks it.
        arm = self.arm.model_dump(mode="json", exclude={"label", "against"}, exclude_defaults=True)
        test, to = self.experiment.test_each_round, self.matched_to
        matched = to.digest(backbone) if to else None
        parts = [FORMAT, own, arm, test, matched, self.seed, backbone, STANDIN_VERSION, POOL_VERSION]
        return digest(parts)[:16]


def load_experiment(path: Path) -> Experiment:
    """Read an experiment, with the configuration of each arm.

    Raises:
        ConfigError: something in it is wrong.
    """
    found: Experiment = validated(Experiment, read_toml(path), str(path))
    named = {name: (arm.matched_to, arm.against) for name, arm in found.arms.items()}
    known: Mapping[Any, Any] = {None: None, **found.arms}
    wrong = [f"arms.{name}: {each!r} is no arm" for name, of in named.items() for each in of if each not in known]
    wrong += [
        f"arms.{name}.like: {arm.like!r} is no ready arm" for name, arm in found.arms.items() if arm.like not in READY
    ]
    wrong += [
        f"arms.{name}.matched_to: {arm.matched_to} is matched itself"
        for name, arm in found.arms.items()
        if arm.matched_to in found.arms and found.arms[arm.matched_to].matched_to
    ]
    wrong += [f"reference: {found.reference!r} is no arm"] if found.reference not in found.arms else []
    if wrong:
        raise ConfigError(wrong, source=str(path))
    for name in found.arms:
        recipe_of(found, name, found.seeds[0])
    return found


def recipe_of(experiment: Experiment, name: str, seed: int) -> Recipe:
    """The recipe of an arm with a seed.

    Raises:
        ConfigError: its configuration is wrong, or the lab cannot do it.
    """
    arm = experiment.arms[name]
    overrides = [*experiment.overrides, *arm.overrides, f"run.seed={seed}"]
    config = spell_out_rounds(load_config(experiment.config, overrides, f"{experiment.name}-{name}-s{seed}"))
    config = replace_values(config, READY[arm.like].settings(config), source=f"arm {name}")
    lacking = {
        "teacher and judge other than the stand-in": not all(
            isinstance(each.endpoint, StandinEndpoint) for each in (config.teacher, config.judge)
        ),
        "pools and held-out sets other than the stand-in's": not (
            isinstance(config.data.pool, StandinPool) and isinstance(config.data.references, StandinHeldout)
        ),
        "judge.panel": bool(config.judge.panel),
        "judge.verifier": config.judge.verifier is not None,
        "training.lora": config.training.lora is not None,
        "training.packing": config.training.packing,
        "curriculum.expansion.check_difficulty": config.curriculum.expansion.check_difficulty,
        "student answers that are drawn (student.sampling.temperature)": config.student.sampling.temperature != 0,
        "shares that follow the student where seeds are by frontier": arm.follow_shares and arm.frontier > 0,
    }
    if wrong := [f"arm {name}: the lab does not know {what}" for what, there in lacking.items() if there]:
        raise ConfigError(wrong)
    return Recipe(experiment, name, seed, config)
