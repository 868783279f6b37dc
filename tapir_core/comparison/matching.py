"""How large a round must be so that an arm trains on as many tokens, in as many steps, as the reference did. Pure.

Tokens are those of the examples that fit, prompts included, over all epochs. A mixture is made, counted and, where it
is off, asked for anew with another number of examples: examples differ in length, so that the first try seldom fits.
Steps follow from the number of examples and the batch size, which is a whole number: sizes are looked for whose steps
are equal, and a difference of one step (or 2 %) is taken where none was found.
"""

import math
from dataclasses import dataclass

from tapir_core.errors import TapirError

__all__ = [
    "MOST_TRIES",
    "TOLERANCE",
    "Counted",
    "Target",
    "check_match",
    "is_match",
    "is_near",
    "next_examples",
    "steps_of",
    "suited_batch_size",
]

TOLERANCE = 0.02
"""Largest difference in tokens, as a share of the reference's; in steps the same, but one step at least."""

MOST_TRIES = 12
"""Mixtures that are made of one round before it is given up."""

_EXACT_TRIES = 4
"""Of them, those that are only taken with equal steps."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a mixture that was made comes to."""

    examples: int
    """That fit `training.max_length`."""
    tokens: int
    """Of those, over all epochs."""
    epochs: float


@dataclass(frozen=True, slots=True)
class Target:
    """What the reference trained on, in one round or in all."""

    tokens: int
    steps: int


def steps_of(examples: int, epochs: float, batch_size: int) -> int:
    """Optimizer steps of a training."""
    return math.ceil(max(1, round(examples * epochs)) / batch_size)


def suited_batch_size(target: Target, examples: int, epochs: float, usual: int | None = None) -> int:
    """The batch size whose steps are nearest to the reference's: the ``usual`` one if it is, else the smallest."""
    near = max(1, round(examples * epochs / target.steps))
    sizes: list[int] = [*([usual] if usual else []), *range(max(1, near - 1), near + 2)]
    return min(sizes, key=lambda size: abs(steps_of(examples, epochs, size) - target.steps))


def is_match(target: Target, made: Counted, *, tries: int = MOST_TRIES) -> bool:
    """Whether what was made may be trained on, with its suited batch size, when so many mixtures were made of it."""
    steps = _best_steps(target, made.examples, made.epochs)
    return is_near(target, made.tokens, steps) and (tries >= _EXACT_TRIES or steps == target.steps)


def is_near(target: Target, tokens: int, steps: int) -> bool:
    """Whether so many tokens and steps are as many as the reference's."""
    steps_allowed = max(1, round(TOLERANCE * target.steps))
    return abs(tokens - target.tokens) <= TOLERANCE * target.tokens and abs(steps - target.steps) <= steps_allowed


def check_match(what: str, target: Target, made: Counted, asked: int) -> None:
    """Refuse to train what could not be matched.

    Raises:
        TapirError: with the figures of both sides.
    """
    if is_match(target, made):
        return
    steps = _best_steps(target, made.examples, made.epochs)
    lacks = asked - made.examples
    short = f"; of {asked:,} examples that were asked for {lacks:,} are not there" if lacks > 0 else ""
    raise TapirError(
        f"{what} cannot be matched: {made.tokens:,} tokens in {steps:,} steps, the reference has {target.tokens:,} "
        f"in {target.steps:,} (allowed: ± {TOLERANCE:.0%}){short}. Give a larger pool or smaller rounds, or larger "
        "batches where only the steps differ, and the comparison another name"
    )


def next_examples(target: Target, made: Counted, asked: int) -> int:
    """How many examples to ask for after ``asked`` of them came to ``made``."""
    if not made.examples:
        return 2 * asked
    mean = made.tokens / made.examples
    centre = target.tokens / mean
    fewest, most = math.ceil(centre * (1 - TOLERANCE)), math.floor(centre * (1 + TOLERANCE))

    def cost(examples: int) -> tuple[int, float]:
        off = abs(_best_steps(target, examples, made.epochs) - target.steps)
        return off, abs(examples * mean - target.tokens)

    # Only what should fit: a number whose tokens came out too many or too few is not asked for again at once.
    best = min(range(fewest, most + 1), key=cost, default=max(1, round(centre)))
    # A mixture that came out short will again.
    return max(1, round(best * max(1.0, asked / made.examples)))


def _best_steps(target: Target, examples: int, epochs: float) -> int:
    return steps_of(examples, epochs, suited_batch_size(target, examples, epochs))
