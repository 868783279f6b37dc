"""What one run of a comparison came to: who was right about what, what it trained on, what it asked and was paid for.

Reads run folders and the call store, asks nobody.

Limits: with `expansion.check_difficulty` the judge's calls in an expansion count as the teacher's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from tapir_core.calls.spend import Spend
from tapir_core.comparison.arms import Arm
from tapir_core.comparison.matching import Counted
from tapir_core.config import RunConfig
from tapir_core.config.presets import RolePrices, TokenPrices
from tapir_core.evaluation.heldout import grade_answers
from tapir_core.paths import BACKBONE, training_file
from tapir_core.run_folder import RunFolder
from tapir_core.stages import BENCHMARK, LABEL, StageAt
from tapir_core.summary import summarise
from tapir_core.summary.types import RunSummary, StageSummary, Usage

__all__ = ["ArmOutcome", "Graded", "Training", "read_outcome", "read_training", "recipe_stages", "usd_of"]

_ROLES = ("teacher", "judge")
_JUDGE = "judge"
_UNPAID = ("answer", "run")
"""In the ledger of a run: the student's own answers, and the hours of the whole."""


@dataclass(frozen=True, slots=True)
class Training:
    """How much one training was; of `training.json`."""

    examples: int
    tokens: int
    """Of examples, prompts included, over all epochs."""
    loss_tokens: int
    """Of them, those with a loss."""
    steps: int
    epochs: float

    @property
    def counted(self) -> Counted:
        """What arms are matched by."""
        return Counted(self.examples, self.tokens, self.epochs)

    def __add__(self, other: "Training") -> "Training":
        return Training(
            self.examples + other.examples,
            self.tokens + other.tokens,
            self.loss_tokens + other.loss_tokens,
            self.steps + other.steps,
            self.epochs,
        )


@dataclass(frozen=True, slots=True)
class Graded:
    """One student on one split."""

    correct: Mapping[str, float]
    """Item → whether the answer was right (1) or not (0), of the items that have one."""
    task_types: Mapping[str, str]
    """Item → task type, of every item that was asked."""

    @property
    def missing(self) -> int:
        """How many items have no answer: they failed for good, or the run went on without them."""
        return len(self.task_types) - len(self.correct)


@dataclass(frozen=True, slots=True)
class ArmOutcome:
    """One arm with one run seed."""

    arm: Arm
    run_seed: int
    run: str
    """Its name."""
    trainings: Mapping[int, Training]
    """Of S_0 (0) and each round."""
    students: Mapping[tuple[int, str], Graded]
    """Round (-1 is the backbone) and split → what its student got right."""
    answers: Mapping[str, int]
    """Teacher and judge → answers that the arm takes, as if it stood alone."""
    usd: float
    """Of all of them."""
    stored: int
    """Of them, those that an earlier run, or an earlier start of this one, had asked for."""
    paid_requests: int
    """That this run sent, repeated attempts and mixtures that were given up included."""
    paid_usd: float
    seconds: float
    """At work, without what was taken over."""
    stages: Mapping[str, int]
    """Stage → version of the code that made its rows."""

    @property
    def last(self) -> int:
        """The round of the last student."""
        return max(self.trainings)

    @property
    def trained(self) -> Training:
        """All rounds after S_0 together."""
        return sum((each for number, each in self.trainings.items() if number), Training(0, 0, 0, 0, 0.0))

    def tokens_to(self, number: int) -> int:
        """Training tokens after S_0, up to round ``number``."""
        return sum(each.tokens for round_number, each in self.trainings.items() if 0 < round_number <= number)


def read_outcome(
    run: RunFolder, arm: Arm, run_seed: int, *, paid: Mapping[str, Spend], prices: RolePrices | None
) -> ArmOutcome:
    """What a finished run came to.

    Args:
        run: its folder.
        arm: of which it is a repetition.
        run_seed: its own.
        paid: the ledger of the run, by what calls were for.
        prices: what tokens count at; as they were paid when there are none.
    """
    summary = summarise(run)
    recipe = recipe_stages(summary, run.config)
    trained = run.trained_rounds
    spent = {role: sum((stage.usage for stage in recipe if stage.asks == role), Usage()) for role in _ROLES}
    return ArmOutcome(
        arm=arm,
        run_seed=run_seed,
        run=run.ref.name,
        trainings={number: read_training(run, number) for number in trained},
        students=_students(run, [BACKBONE, *trained]),
        answers={role: usage.calls + usage.stored for role, usage in spent.items()},
        usd=sum(usd_of(usage, role, prices) for role, usage in spent.items()),
        stored=sum(usage.stored for usage in spent.values()),
        paid_requests=sum(each.requests for role, each in paid.items() if role not in _UNPAID),
        paid_usd=sum(usd_of(each, role, prices) for role, each in paid.items() if role not in _UNPAID),
        seconds=summary.busy_seconds,
        stages=run.stage_versions,
    )


def read_training(run: RunFolder, number: int) -> Training:
    """How much the training of a round (0: of S_0) was, once it is done."""
    told = json.loads(run.storage.read_bytes(training_file(StageAt("train", number).folder)))
    return Training(told["examples"], told["total_tokens"], told["trained_tokens"], told["steps"], told["epochs"])


def recipe_stages(summary: RunSummary, config: RunConfig) -> list[StageSummary]:
    """The stages that make the students of a run, without the benchmarks that measure them.

    Mixtures drawn from the pool at random, in its own shares, take no labels: those serve the figures by task type.
    """
    measuring = {stage.name for stage in BENCHMARK}
    stages = [stage for stage in summary.all_stages if stage.name not in measuring]
    return [stage for stage in stages if stage.name != LABEL.name or _goes_by_task_type(config)]


def usd_of(spent: Usage | Spend, role: str, prices: RolePrices | None) -> float:
    """What answers cost, or would at ``prices``."""
    if prices is None:
        return spent.usd
    price: TokenPrices = prices.judge if role == _JUDGE else prices.teacher
    return (
        spent.prompt_tokens * price.usd_per_million_prompt_tokens
        + spent.completion_tokens * price.usd_per_million_completion_tokens
    ) / 1e6


def _goes_by_task_type(config: RunConfig) -> bool:
    balanced = config.curriculum.target_shares != "natural"
    return balanced or any(config.round(number).alpha for number in config.round_numbers)


def _students(run: RunFolder, numbers: list[int]) -> dict[tuple[int, str], Graded]:
    questions, found = run.rows(StageAt("heldout")), {}
    for number in numbers:
        graded = grade_answers(questions, run.rows(StageAt("answer_heldout", number)))
        for split in ("dev", "test"):
            rows = graded.filter(split=split)
            answered = rows.drop_nulls("correct").select("instruction_id", pl.col("correct").cast(pl.Float64))
            types = rows.select("instruction_id", pl.col("task_type").fill_null(""))
            found[number, split] = Graded(dict(answered.iter_rows()), dict(types.iter_rows()))
    return found
