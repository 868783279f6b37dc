"""The curriculum: what counts as hard, how it is expanded, balanced, mixed and stopped; round by round."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
)

from tapir_core.config._base import Kind, Section
from tapir_core.task_types import TARGET_SHARES

__all__ = [
    "CurriculumConfig",
    "ExpansionConfig",
    "HardShare",
    "RandomShare",
    "RoundConfig",
    "RoundName",
    "SelectionRule",
    "StopConfig",
    "TargetShares",
    "Threshold",
]


class SelectionRule(Kind):
    """Which instructions are a round's seeds. What chooses them is registered in `tapir_core.curriculum.selection`."""

    reads_difficulty: ClassVar[bool] = True
    """Whether it chooses by MFD, so that a student answers the pool and a judge scores the answers."""

    @property
    def fixed_share(self) -> float | None:
        """Its field `share`: of its candidates, those that become seeds at most. Nothing where difficulty decides."""
        return getattr(self, "share", None)

    def delta(self, seeds: list[float]) -> float | None:
        """δ as it was used: the least MFD of the seeds, 0 without any; nothing for a rule that knows no difficulty."""
        return float(min(seeds, default=0.0)) if self.reads_difficulty else None


class Threshold(SelectionRule):
    """Seeds are the instructions with MFD > δ (the paper's rule)."""

    type: Literal["threshold"] = "threshold"

    threshold: float = 2.0
    """δ, in points of the judge's scale."""

    def delta(self, _seeds: list[float]) -> float | None:
        """As configured."""
        return self.threshold


class HardShare(SelectionRule):
    """Seeds are the hardest share of the scored instructions; the better rule for a weak student."""

    type: Literal["hard_share"] = "hard_share"

    share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share q of the scored instructions; only MFD > 0 can be a seed."""


class RandomShare(SelectionRule):
    """Seeds are a share of the round's pool drawn at random: nobody is asked how hard it is (docs/concepts.md)."""

    reads_difficulty: ClassVar[bool] = False

    type: Literal["random"] = "random"

    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share q of the pool; with 0 and `alpha = 0` the whole mixture is drawn from the pool by the target shares."""


class ExpansionConfig(Section):
    """How the teacher writes new instructions in the manner of the seeds, and which it may keep."""

    max_waves: Annotated[int, Field(ge=0, le=19)] = 3
    """Waves of requests a round; 0 switches expansion off."""

    oversample: Annotated[float, Field(ge=1)] = 1.25
    """Instructions asked for in a wave for each one that lacks, since the gates reject some."""

    min_chars: PositiveInt = 8
    """Shortest instruction that passes, in characters."""

    max_chars: PositiveInt = 4000
    """Longest instruction that passes, in characters."""

    max_rouge_l: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Highest ROUGE-L F1 to any instruction of the pool or accepted before."""

    check_difficulty: bool = False
    """Let the student answer and the judge score each new instruction, and keep those the selection calls hard; only
    in rounds that judge their pool."""


class StopConfig(Section):
    """When to stop before the last round. Reads the dev split only."""

    min_seeds: NonNegativeInt = 1
    """Stop when a round has fewer seeds."""

    min_gain: float = 0.0
    """Stop when the dev score grew by less than this …"""

    patience: NonNegativeInt = 0
    """… for this many rounds; 0 switches the rule on gains off."""


TargetShares = dict[str, NonNegativeFloat] | Literal["natural"]
"""Task type → share, or the shares of the pool as it comes."""


class CurriculumConfig(Section):
    """What holds for all rounds."""

    free: ClassVar[tuple[str, ...]] = ("stop",)

    # With tags an error speaks of the form that was written, and of no other.
    target_shares: Annotated[
        Annotated[dict[str, NonNegativeFloat], Tag("table")] | Annotated[Literal["natural"], Tag("name")],
        Discriminator(lambda value: "name" if isinstance(value, str) else "table"),
    ] = Field(default_factory=lambda: dict(TARGET_SHARES))
    """Task type → share of a mixture, Pr(task type); checked to sum to 1. `"natural"` balances nothing: the shares are
    those of the first pool, as it was labelled."""

    alpha_start: Annotated[float, Field(ge=0, le=1)] = 0.3
    """α_1: share of the first round's mixture that is hard."""

    alpha_step: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Δα: what α grows by each round, up to 1."""

    rejudge: bool = True
    """Let every student answer its round's pool and judge the answers. Without it rounds after the first take their
    difficulty from its verdicts; new instructions have none then, and are in no later round's seeds and easy part."""

    expansion: ExpansionConfig = ExpansionConfig()
    """New instructions."""

    refine: bool = True
    """Rewrite the answers of the hard part in the style that their task type needs."""

    stop: StopConfig = StopConfig()
    """Early stop."""

    @field_validator("target_shares", mode="after")
    @classmethod
    def _shares_are_a_distribution(cls, shares: TargetShares) -> TargetShares:
        if shares == "natural":
            return shares
        unknown = sorted(set(shares) - set(TARGET_SHARES))
        if unknown:
            known = ", ".join(TARGET_SHARES)
            raise ValueError(f"unknown task type {', '.join(map(repr, unknown))}; the 32 are: {known}")
        total = sum(shares.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"shares sum to {total:.6f}, not 1; scale each by {1 / total if total else 1:.6f}")
        return {task_type: shares[task_type] for task_type in TARGET_SHARES if task_type in shares}


class RoundConfig(Section):
    """One round, resolved: `[rounds.default]`, then `[rounds.N]`, then the command line."""

    examples: PositiveInt = 70000
    """N: examples of the round's mixture."""

    selection: SelectionRule = Threshold()
    """Which instructions are seeds: those above a `"threshold"`, the `"hard_share"`, or `"random"` ones."""

    alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    """α_r: hard share of this round's mixture; nothing means the schedule's."""

    epochs: PositiveFloat = 2.0
    """Passes over the mixture."""

    learning_rate: PositiveFloat = 2e-5
    """Peak learning rate."""

    batch_size: PositiveInt | None = None
    """Examples that one optimizer step of this round sees; nothing means `training.batch_size`. Any number will do:
    it is held in as few micro batches as `training.micro_batch_size` allows, of like size."""


def _check_round_name(name: str) -> str:
    if name != "default" and not re.fullmatch(r"[1-9][0-9]*", name):
        raise ValueError("is no round; use `default` or a number from 1")
    return name


RoundName = Annotated[str, AfterValidator(_check_round_name)]
"""`default`, or the number of a round."""
