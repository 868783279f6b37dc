"""The curriculum: what counts as hard, how it is expanded, balanced, mixed and stopped."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from tapir_core.config._base import BY_FORM, OTHER, TEXT, AutoSize, Free, Kind, Later, Section, T, matching, short_form
from tapir_core.task_types import (
    DEFINED,
    OTHERS,
    PAPER,
    TARGET_SHARES,
    RefinementFamily,
    TaskTypes,
    in_order,
    spelling,
    unknown_type,
)


class SelectionRule(Kind):
    """Which instructions are a round's seeds. What chooses them is registered in `tapir_core.curriculum.selection`."""

    reads_difficulty: ClassVar[bool] = True
    """Whether it chooses by MFD, so that a student answers the pool and a judge scores the answers."""

    @property
    def attempts(self) -> int:
        """Its field `samples`: answers of the student to each instruction, where it chooses by those that are right."""
        return getattr(self, "samples", 0)

    @property
    def fixed_share(self) -> float | None:
        """Its field `share`: of its candidates, those that become seeds at most. Nothing where difficulty decides."""
        return getattr(self, "share", None)

    def delta(self, seeds: list[float]) -> float | None:
        """δ as it was used: the least MFD of the seeds, 0 without any; None for a rule that knows no difficulty."""
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

    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share q of the pool; with 0 and `alpha = 0` the whole mixture is drawn from the pool, and nothing is expanded."""


class PassRate(SelectionRule):
    """Seeds are drawn by how often the student's own answers are right, of what the teacher answered rightly.

    p = (right + 1) / (n + 2). A round that imitates draws by p·(1 − p): what it half knows; one that learns from its
    own answers by 1 − p: what it fails.
    """

    reads_difficulty: ClassVar[bool] = False

    type: Literal["pass_rate"] = "pass_rate"

    samples: Annotated[int, Field(ge=4)] = 4
    """n: answers to each instruction, at temperature 1; the first are an on-policy round's rollouts."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share q of what can be marked (a reference, or `judge.verifier`) and the teacher answers rightly."""


class ExpansionConfig(Section):
    """How the teacher writes new instructions in the manner of the seeds, and which it may keep."""

    max_waves: Annotated[int, Field(ge=0, le=19)] = 3
    """Waves of requests a round; 0 switches expansion off."""

    oversample: Annotated[float, Field(ge=1)] = 1.0
    """Instructions asked for in a wave for each one that lacks. 1 asks for exactly what lacks, and the next wave for
    what the gates took of it; more makes fewer waves, and pays for new instructions that no mixture may need."""

    min_chars: PositiveInt = 8
    """Shortest instruction that passes, in characters."""

    max_chars: PositiveInt = 4000
    """Longest instruction that passes, in characters."""

    max_rouge_l: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Highest ROUGE-L F1 to any instruction of the pool or accepted before."""

    check_difficulty: bool = False
    """Let the student answer and the judge score each new instruction, and keep those the selection calls hard; only
    in rounds that judge their pool."""


OnDev = Annotated[T, "dev"]
"""Switches on a stop rule that reads the dev split, so that there must be one."""


class StopConfig(Section):
    """When to stop before the last round. Reads the dev split only."""

    min_seeds: NonNegativeInt = 1
    """Stop when a round has fewer seeds."""

    min_gain: float = 0.0
    """Stop when the dev score grew by less than this …"""

    patience: OnDev[NonNegativeInt] = 0
    """… for this many rounds; 0 switches the rule on gains off."""

    max_growth: PositiveFloat | None = 0.5
    """Stop after a round that learned from the student's own answers when whole answers to the dev split became longer
    by more than this share; that student is not exported as the best. Like the next four, `""` switches it off."""

    max_unended: PositiveFloat | None = 0.1
    """Likewise, when the share of its answers that broke off grew by more."""

    max_repeated: PositiveFloat | None = 0.1
    """Likewise, when the share of runs of four words that stood in the same answer before grew by more."""

    max_divergence: PositiveFloat | None = 0.5
    """Likewise, in nats a token, of KL(student ‖ teacher) on its rollouts; they show it in the next on-policy round."""

    max_entropy_loss: PositiveFloat | None = 0.9
    """Likewise, when by these its entropy fell by more than this share."""


class TaskTypeConfig(Section):
    """A task type of your own. A text alone is its definition."""

    definition: Annotated[
        str,
        matching(r"\S[^\n\r<>]{0,299}", "is no definition; write one line of up to 300 characters, without < and >"),
    ]
    """What tasks are of this type, in one line, for the teacher."""

    refinement: RefinementFamily = "prose"
    """The style in which its answers are refined: `"steps"` to a final result, `"code"` that works, `"prose"`."""


TaskTypeName = Annotated[
    str,
    matching(
        r"[^\W_]([\w &/'-]{0,58}[\w'])?",
        "is no name of a task type; write up to 60 letters, digits, blanks and - _ & / ', and a letter or digit first",
    ),
]
"""What a task type is called, in any script."""

_RESERVED = ("all", "no task type")
"""What reports call all task types together, and the lack of one."""

TargetShares = dict[str, NonNegativeFloat] | Literal["natural", "equal"]
"""Task type → share; or the shares of the pool as it comes; or the same of each task type that it has."""


def _complete_types(given: dict[str, TaskTypeConfig]) -> dict[str, TaskTypeConfig]:
    """The task types by name, `OTHERS` last: there is always one for what no other fits."""
    if taken := sorted(given.keys() & {*_RESERVED}):
        raise ValueError(f"{taken[0]!r} has a meaning of its own in reports; choose another name")
    names = given.keys() | {OTHERS}
    spelt = list(map(spelling, names))
    if twice := sorted(name for name in names if spelt.count(spelling(name)) > 1):
        raise ValueError(f"{' and '.join(map(repr, twice))} read alike in a reply; choose names that differ in letters")
    types = {OTHERS: TaskTypeConfig(definition=DEFINED.definitions[OTHERS])} | given
    return {name: types[name] for name in sorted(types, key=lambda name: (name == OTHERS, name))}


def _check_shares(shares: Mapping[str, float], known: TaskTypes) -> dict[str, float]:
    """The shares in the order of reports, if they are a distribution over the task types."""
    if unknown := sorted(shares.keys() - {*known.names}):
        raise ValueError(unknown_type(unknown[0], known.names))
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"shares sum to {total:.6f}, not 1; scale each by {1 / total if total else 1:.6f}")
    return {task_type: shares[task_type] for task_type in in_order(shares)}


class CurriculumConfig(Section):
    """What holds for all rounds."""

    task_types: Annotated[
        Annotated[
            dict[TaskTypeName, Annotated[TaskTypeConfig, short_form("definition")]],
            Field(min_length=1),
            AfterValidator(_complete_types),
            OTHER,
        ]
        | Annotated[Literal["paper", "defined", "discover"], TEXT],
        BY_FORM,
    ] = "paper"
    """Kinds of instruction that labels, shares, new instructions, refinement and reports speak of: the `"paper"`'s 32
    by name, the same `"defined"` in a line each, or a table of your own, name → definition. `Others` is added. A
    TOML file is named by its path. With `"discover"` the teacher proposes some, and the run stops there."""

    target_shares: Annotated[
        Annotated[dict[str, NonNegativeFloat], OTHER] | Annotated[Literal["natural", "equal"], TEXT],
        BY_FORM,
    ] = "natural"
    """Task type → share of a mixture, Pr(task type); checked to sum to 1. `"natural"` has the shares of the first pool,
    as it was labelled, which balances nothing; `"equal"` the same for each task type that the first pool has;
    `"recipe"` the paper's, for its task types."""

    alpha_start: Annotated[float, Field(ge=0, le=1)] = 1.0
    """α_1: share of the first round's mixture that is seeds and new instructions like them; the paper's is 0.3."""

    alpha_step: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Δα: what α grows by each round, up to 1."""

    teacher_floor: Annotated[float, Field(ge=0, le=10)] = 5.0
    """Least score, of 10, that the judge gave the teacher's own answer to an instruction which a round may learn from:
    below it an instruction is neither a seed nor easy. 0 keeps all."""

    rejudge: bool = True
    """Let every student answer its round's pool and judge the answers. Without it rounds after the first take their
    difficulty from its verdicts; new instructions have none then, and are in no later round's seeds and easy part."""

    expansion: ExpansionConfig = ExpansionConfig()
    """New instructions."""

    refine: bool = False
    """Rewrite the answers of the hard part in the style that their task type needs, as the paper does."""

    stop: Free[StopConfig] = StopConfig()
    """Early stop."""

    @field_validator("task_types", mode="before")
    @classmethod
    def _of_file(cls, types: Any) -> Any:
        """The table in a file, which a configuration keeps in the file's place."""
        if not (isinstance(types, str) and types.endswith(".toml")):
            return types
        try:
            return tomllib.loads(Path(types).read_text("utf-8"))["curriculum"]["task_types"]
        except OSError as exc:
            raise ValueError(f"cannot be read: {exc.strerror}; name a TOML file on this machine") from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise ValueError(f"has no table [curriculum.task_types] in TOML ({exc}); repair it") from exc

    @field_validator("target_shares", mode="before")
    @classmethod
    def _write_out(cls, shares: Any, info: ValidationInfo) -> Any:
        """The recipe as the table that it is, which is what keys have always meant."""
        if shares == "recipe" and info.data.get("task_types", "paper") not in ("paper", "defined"):
            raise ValueError(
                'is for the paper\'s task types, and there are others; write "natural", "equal" or a table'
            )
        return dict(TARGET_SHARES) if shares == "recipe" else shares

    @field_validator("target_shares")
    @classmethod
    def _of_these_types(cls, shares: TargetShares, info: ValidationInfo) -> TargetShares:
        types = info.data.get("task_types", "discover")
        # Not known yet, or wrong themselves.
        return shares if isinstance(shares, str) or types == "discover" else _check_shares(shares, cls._types_of(types))

    @property
    def types(self) -> TaskTypes:
        """The task types, for whoever renders, parses or lists them; the paper's until some are discovered."""
        return self._types_of(self.task_types)

    @staticmethod
    def _types_of(said: dict[str, TaskTypeConfig] | str) -> TaskTypes:
        if isinstance(said, str):
            return DEFINED if said == "defined" else PAPER
        families = {name: each.refinement for name, each in said.items()}
        return TaskTypes({name: each.definition for name, each in said.items()}, families)


class Objective(Kind):
    """What a round learns from its prompts (docs/training.md#objectives)."""

    learning_rate: ClassVar[float] = 2e-5
    """Peak learning rate where a round says none; ten times as much for adapters."""

    epochs: ClassVar[float] = 2.0
    """Passes over the mixture where a round says none."""

    rolls_out: ClassVar[bool] = False
    """Whether the student answers the prompts anew, and the teacher scores its tokens."""

    reads_answers: ClassVar[bool] = False
    """Whether it learns from the student's answers, so that the round is of instructions that they were judged on:
    none is written anew, none is easy, and no answer is refined."""

    @property
    def learns_from_own(self) -> bool:
        """Whether it learns from answers of the student's own, so that it may lose itself."""
        return self.reads_answers or self.rolls_out

    @property
    def rollouts(self) -> int:
        """Its field `samples`: answers that the student gives to each prompt for the training."""
        return getattr(self, "samples", 0)

    @property
    def conversations(self) -> int:
        """Conversations that are trained on for each prompt."""
        return 1

    @property
    def scored_top_k(self) -> int:
        """How many tokens of each place the teacher names beside the student's."""
        return 0

    def shaping_of(self, stage: Literal["mix", "rollout", "score"]) -> dict[str, Any]:
        """What of it shapes seeds and mixture, the student's answers for the training, or the teacher's scores."""
        return {}


class Imitate(Objective):
    """Cross-entropy on the teacher's answers."""

    type: Literal["imitate"] = "imitate"


class Prefer(Objective):
    """The teacher's answer over the student's own, where the judge puts it ahead.

    Direct preference optimization (arXiv 2305.18290) on the pairs of arXiv 2604.03873.
    """

    learning_rate: ClassVar[float] = 5e-6
    reads_answers: ClassVar[bool] = True

    type: Literal["prefer"] = "prefer"

    margin: NonNegativeFloat = 1.0
    """Points of the judge's scale by which the teacher's answer must be ahead in each order; at 0 any more."""

    beta: PositiveFloat = 0.1
    """β: how dear it is to move away from the student with which the round begins."""

    imitation: NonNegativeFloat = 1.0
    """Weight of the cross-entropy on the teacher's answers beside, which keeps them likely."""

    @property
    def conversations(self) -> int:
        """Both of a pair."""
        return 2

    def shaping_of(self, stage: Literal["mix", "rollout", "score"]) -> dict[str, Any]:
        """Pairs are what it learns from."""
        return {"type": self.type, "margin": self.margin} if stage == "mix" else {}


class OnPolicy(Objective):
    """The student's own answers, each token of them weighed by how likely the teacher finds it.

    Answers and scores are made once, before the training (arXiv 2604.13010), by a teacher that is served by the run.
    """

    epochs: ClassVar[float] = 1.0
    rolls_out: ClassVar[bool] = True

    type: Literal["on_policy"] = "on_policy"

    loss: Literal["forward_kl", "policy"] = "forward_kl"
    """`"forward_kl"`: all that the teacher finds likely in each place. `"policy"`: the sampled tokens, by how much
    likelier the teacher finds each than the student."""

    clip: PositiveFloat = 1.0
    """Largest weight of a token either way, in nats; `"policy"` alone."""

    top_k: Annotated[int, Field(ge=1, le=32)] = 16
    """Tokens of each place that `"forward_kl"` compares; about eight bytes each in memory and on disk."""

    samples: PositiveInt = 1
    """Answers to each prompt."""

    first_tokens: PositiveInt | None = None
    """Learn from so many tokens of an answer; unset: from all."""

    imitation: NonNegativeFloat = 0.0
    """Weight of the cross-entropy on the teacher's answers to the same prompts beside."""

    @property
    def scored_top_k(self) -> int:
        """As many as the loss compares."""
        return self.top_k if self.loss == "forward_kl" else 0

    @property
    def conversations(self) -> int:
        """Its own, and the teacher's where that is imitated too."""
        return self.samples + bool(self.imitation)

    def shaping_of(self, stage: Literal["mix", "rollout", "score"]) -> dict[str, Any]:
        """How many answers the student gives, and which of their tokens the teacher scores."""
        fields: dict[str, dict[str, Any]] = {
            "rollout": {"samples": self.samples},
            "score": {"top_k": self.scored_top_k, "first_tokens": self.first_tokens},
        }
        return fields.get(stage, {})


class RoundConfig(Section):
    """One round, resolved: `[rounds.default]`, then `[rounds.N]`, then the command line."""

    examples: AutoSize = "auto"
    """N: examples of the round's mixture; `"auto"`: what the pool suggests (docs/own-data.md#sizes-from-the-pool)."""

    selection: SelectionRule = RandomShare()
    """Which instructions are seeds: those above a `"threshold"`, as in the paper, the `"hard_share"`, some by
    `"pass_rate"`, or `"random"` ones, by default the whole pool."""

    objective: Annotated[Later[Objective], short_form("type")] = Imitate()
    """What is learned from the prompts: to `"imitate"` the teacher's answers, to `"prefer"` them over the student's
    own, or `"on_policy"` from the student's own, which the teacher scores."""

    alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    """α_r: hard share of this round's mixture; unset: the schedule's, and 1 where the objective knows no easy part."""

    epochs: PositiveFloat = 2.0
    """Passes over the mixture; unset: 2, for `"on_policy"` 1."""

    learning_rate: PositiveFloat | None = None
    """Peak learning rate; unset: 2e-5, for `"prefer"` 5e-6; ten times as much for the adapters of `[training.lora]`."""

    batch_size: PositiveInt | None = None
    """Examples that one optimizer step of this round sees; unset: `training.batch_size`. Any number will do:
    it is held in as few micro batches as `training.micro_batch_size` allows, of like size."""


RoundName = Annotated[str, matching(r"default|[1-9][0-9]*", "is no round; use `default` or a number from 1")]
"""`default`, or the number of a round."""
