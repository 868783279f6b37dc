"""How large rounds must be so that an arm trains on as many tokens and steps as the reference, or costs as much.

Tokens are those of the examples that fit, prompts included, over all epochs. A mixture is made, counted and, where it
is off, asked for anew with another number of examples: examples differ in length, so that the first try seldom fits.
Steps follow from the number of examples and the batch size, which is a whole number: sizes are looked for whose steps
are equal, and a difference of one step (or 2 %) is taken where none was found. A run's sizes stand in its own
configuration: what is read from there is looked for no more, and everything else of it must be what the comparison
says, so that a changed comparison is refused under the old name.

Equal USD: what the reference cost more than random, at the price of one more plain answer to random's pool, makes that
many more instructions; random's rounds grow in proportion, in batches of the size that random was matched with, so that
it trains on as many more in as many more steps. Where plain answers are far cheaper than the curriculum's calls that is
more than can be trained on, and a comparison may say how much is enough. Limits: another pool is another sample for
S_0, so that this arm has a basic student of its own. A file must have the instructions: what it lacks is told after it
is read.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from tapir_core import paths, stages, summary
from tapir_core.comparison.outcome import Training, read_trainings, recipe_stages, total, usd_of
from tapir_core.comparison.plan import Arm, ComparisonPlan, PlannedRun
from tapir_core.config import RunConfig, load, presets
from tapir_core.errors import TapirError
from tapir_core.run_folder import RunFolder, RunRef

TOLERANCE = 0.02
"""Largest difference in tokens, as a share of the reference's; in steps the same, but one step at least."""

MOST_TRIES = 12
"""Mixtures that are made of one round before it is given up."""

_EXACT_TRIES = 4
"""Of them, those that are only taken with equal steps."""

_MOST_LOST = 0.02
"""Share of a pool that may be dropped on reading (duplicates, held-out questions)."""


class Size(NamedTuple):
    """What is asked for of one round."""

    examples: int
    batch_size: int


class MorePlain(NamedTuple):
    """What equal USD buys, or as much of it as is enough."""

    instructions: int
    """More than random's pool has."""
    pool: int
    """Random's pool as it was read."""
    usd: float
    """What they cost."""
    affordable: int
    """As many as equal USD buys."""
    rounds: Mapping[int, Size]
    """Round → instructions that random trained on, and its batch size."""

    @property
    def trained(self) -> int:
        """Examples that random trained on, of all rounds together."""
        return sum(each.examples for each in self.rounds.values())

    def __str__(self) -> str:
        """How large it makes the arm."""
        enough = f" of the {self.affordable:,} that equal USD buys" if self.instructions < self.affordable else ""
        return (
            f"{self.instructions:,} more instructions{enough}, for {self.usd:.4f} USD; it trains on "
            f"{self.trained + self.instructions:,} examples, random on {self.trained:,}"
        )


@dataclass(frozen=True)
class MatchedRun:
    """One run beside those that it is matched to; what is read of those is read once."""

    arm: Arm
    ref: RunRef
    planned: Callable[[], RunConfig]
    """Its configuration before anything of it is matched."""
    needed: Sequence[RunRef]
    """Runs that must be finished before: the reference, and for equal USD random."""
    before: Sequence[RunRef]
    """Runs from which finished stages may be taken."""
    prices: presets.RolePrices | None = None
    """What tokens count at; as they were paid when there are none."""
    equal_usd_at_most: float | None = None
    """How many times random's examples are enough."""
    times: float = 1.0
    """As often as the reference it trains on all tokens."""

    @cached_property
    def targets(self) -> dict[int, Training]:
        """Round → what it must train on; none of an arm that is not matched by tokens."""
        return targets_of(self.arm, read_trainings(RunFolder(self.needed[0])), self.times) if self.needed else {}

    @cached_property
    def bought(self) -> MorePlain | None:
        """What equal USD buys; nothing of an arm that is matched by something else."""
        if self.arm.match != "usd":
            return None
        reference, random = map(RunFolder, self.needed)
        return buy_more(reference, random, self.prices, self.equal_usd_at_most)

    @cached_property
    def config(self) -> RunConfig:
        """The configuration before rounds are sized by the reference's.

        At equal USD it has the larger pool, and random's rounds grow by what that has more, in batches as large.
        """
        config, more = self.planned(), self.bought
        if more is None:
            return config
        size = f"data.pool.{config.data.pool.size_field}={more.pool + more.instructions}"
        growth = 1 + more.instructions / more.trained
        rounds = {at: Size(round(of.examples * growth), of.batch_size) for at, of in more.rounds.items()}
        return with_sizes(load.replace_values(config, [size]), rounds)

    @property
    def kept(self) -> dict[int, Size]:
        """The sizes that stand in the run's folder; none where there is no run yet."""
        run = RunFolder(self.ref)
        if not run.storage.exists(paths.RUN_RECORD):
            return {}
        config = run.config
        return {number: Size(config.examples(number), config.batch_size(number)) for number in config.round_numbers}

    @property
    def sizes(self) -> dict[int, Size]:
        """Of each round with a target the size found so far, else as many examples as the reference was asked for.

        One round in place of all of the reference's begins with the examples of all, each as often as it was gone
        through, spread over its own epochs.
        """
        if not self.targets:
            return {}
        kept, reference = self.kept, RunFolder(self.needed[0])
        rounds = {at: reference.config.round(at) for at in reference.trained_rounds if at}
        first = {at: reference.config.examples(at) for at in rounds}
        if self.arm.match == "whole":
            passes = sum(first[at] * each.epochs for at, each in rounds.items())
            first = {1: max(1, round(self.times * passes / self.config.round(1).epochs))}
        return {at: kept.get(at) or Size(first[at], self.config.batch_size(at)) for at in self.targets}

    @property
    def earlier(self) -> list[RunFolder]:
        """Those of the runs from which finished stages may be taken that are there."""
        return [run for run in map(RunFolder, self.before) if run.storage.exists(paths.RUN_RECORD)]

    def check_pool(self, rows: int) -> None:
        """Refuse a pool that lacks what equal USD would have bought.

        Raises:
            TapirError: with the figures.
        """
        wanted = self.config.data.pool.most_rows
        if wanted is not None and rows < wanted - _MOST_LOST * wanted:
            raise TapirError(
                f"equal USD buys a pool of {wanted:,} instructions, and there are {rows:,}; give a larger file, or "
                "leave equal_usd out"
            )


def match_run(plan: ComparisonPlan, planned: PlannedRun) -> MatchedRun:
    """A run of a comparison beside those of its run seed that come before it."""
    of_seed = [each for each in plan.runs if each.run_seed == planned.run_seed]
    return MatchedRun(
        planned.arm,
        planned.ref,
        lambda: plan.config(planned),
        needed=[each.ref for each in plan.needs(planned)],
        before=[each.ref for each in of_seed[: of_seed.index(planned)]],
        prices=plan.comparison.prices,
        equal_usd_at_most=plan.comparison.equal_usd_at_most,
    )


def targets_of(arm: Arm, reference: Mapping[int, Training], times: float = 1.0) -> dict[int, Training]:
    """Round of the arm → what it must train on; none of an arm that is not matched by tokens.

    Args:
        arm: which.
        reference: trainings of the reference by round, S_0 included.
        times: as often as all of them, of one round in their place.
    """
    rounds = {number: each for number, each in sorted(reference.items()) if number}
    whole = total(rounds.values())
    whole = replace(whole, tokens=round(times * whole.tokens), steps=max(1, round(times * whole.steps)))
    return {"whole": {1: whole}, "rounds": rounds}.get(arm.match, {})


def is_matched(targets: Mapping[int, Training], trained: Mapping[int, Training]) -> bool:
    """Whether a run trained on what it must, in each round; both as round → training."""
    return all(
        number in trained and _is_near(target, trained[number].tokens, trained[number].steps)
        for number, target in targets.items()
    )


def with_sizes(config: RunConfig, sizes: Mapping[int, Size]) -> RunConfig:
    """The configuration with these rounds, and no more of them."""
    of_rounds = [
        f"rounds.{number}.{field}={value}" for number, size in sizes.items() for field, value in size._asdict().items()
    ]
    return load.replace_values(config, [*([f"run.rounds={max(sizes)}"] if sizes else []), *of_rounds])


def steps_of(examples: int, epochs: float, batch_size: int) -> int:
    """Optimizer steps of a training."""
    return math.ceil(max(1, round(examples * epochs)) / batch_size)


def suited_batch_size(target: Training, examples: int, epochs: float, usual: int | None = None) -> int:
    """The batch size whose steps are nearest to the reference's: the ``usual`` one if it is, else the smallest."""
    near = max(1, round(examples * epochs / target.steps))
    sizes: list[int] = [*([usual] if usual else []), *range(max(1, near - 1), near + 2)]
    return min(sizes, key=lambda size: abs(steps_of(examples, epochs, size) - target.steps))


def is_match(target: Training, made: Training, *, tries: int = MOST_TRIES) -> bool:
    """Whether what was made may be trained on, with its suited batch size, when so many mixtures were made of it."""
    steps = _best_steps(target, made.examples, made.epochs)
    return _is_near(target, made.tokens, steps) and (tries >= _EXACT_TRIES or steps == target.steps)


def _is_near(target: Training, tokens: int, steps: int) -> bool:
    """Whether so many tokens and steps are as many as the reference's."""
    steps_allowed = max(1, round(TOLERANCE * target.steps))
    return abs(tokens - target.tokens) <= TOLERANCE * target.tokens and abs(steps - target.steps) <= steps_allowed


def unmatched(what: str, target: Training, made: Training, asked: int) -> TapirError:
    """Why what was made cannot be trained on, with the figures of both sides."""
    steps, lacks = _best_steps(target, made.examples, made.epochs), asked - made.examples
    short = f"; of {asked:,} examples that were asked for {lacks:,} are not there" if lacks > 0 else ""
    return TapirError(
        f"{what} cannot be matched: {made.tokens:,} tokens in {steps:,} steps, the reference has {target.tokens:,} "
        f"in {target.steps:,} (allowed: ± {TOLERANCE:.0%}){short}. Give a larger pool or smaller rounds, or larger "
        "batches where only the steps differ, under another name"
    )


def next_examples(target: Training, made: Training, asked: int) -> int:
    """How many examples to ask for after ``asked`` of them came to ``made``."""
    if not made.examples:
        return 2 * asked
    mean = made.tokens / made.examples
    centre = target.tokens / mean
    fewest, most = math.ceil(centre * (1 - TOLERANCE)), math.floor(centre * (1 + TOLERANCE))

    def cost(examples: int) -> tuple[int, float]:
        return abs(_best_steps(target, examples, made.epochs) - target.steps), abs(examples * mean - target.tokens)

    # Only what should fit: a number whose tokens came out too many or too few is not asked for again at once.
    # A mixture that came out short will again; several answers to an instruction are as many examples.
    return max(1, round(min(range(fewest, most + 1), key=cost, default=max(1, round(centre))) * asked / made.examples))


def _best_steps(target: Training, examples: int, epochs: float) -> int:
    return steps_of(examples, epochs, suited_batch_size(target, examples, epochs))


def buy_more(
    reference: RunFolder, random: RunFolder, prices: presets.RolePrices | None, at_most: float | None = None
) -> MorePlain:
    """How many more instructions the difference in price pays for.

    Args:
        reference: the finished curriculum.
        random: finished random of the same run seed.
        prices: what tokens count at; as they were paid when there are none.
        at_most: how many times random's examples are enough.

    Raises:
        TapirError: nothing has a price, or the reference cost no more.
    """
    pool, trained, of_random = random.sealed(stages.POOL.at()).rows, read_trainings(random), _whole(random, prices)
    more, each = _whole(reference, prices) - of_random, of_random / pool
    if not each or more <= 0:
        why = "a plain answer has no price" if not each else f"it cost {more:.4f} USD more than random"
        raise TapirError(
            f"equal USD cannot be computed from run {reference.ref.name!r}: {why}; set [prices.teacher] and "
            "[prices.judge] in the comparison, or leave equal_usd out"
        )
    drawn = {at: random.rows(stages.MIX.at(at))["instruction_id"].n_unique() for at in trained if at}
    rounds = {at: Size(examples, random.config.batch_size(at)) for at, examples in drawn.items()}
    affordable = round(more / each)
    enough = affordable if at_most is None else round((at_most - 1) * sum(of.examples for of in rounds.values()))
    taken = min(affordable, enough)
    return MorePlain(taken, pool, taken * each, affordable, rounds)


def _whole(run: RunFolder, prices: presets.RolePrices | None) -> float:
    return sum(
        usd_of(stage.usage, stage.asks, prices)
        for stage in recipe_stages(summary.summarise(run), run.config)
        if stage.asks in summary.types.ROLES
    )
