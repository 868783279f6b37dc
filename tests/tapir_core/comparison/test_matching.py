"""Rounds as large as the reference's: in tokens within 2 %, in steps equal where a whole batch size allows it."""

import random
import re

import pytest

from tapir_core.comparison.matching import (
    MOST_TRIES,
    TOLERANCE,
    is_match,
    next_examples,
    steps_of,
    suited_batch_size,
    unmatched,
)
from tapir_core.comparison.outcome import Training


def reference(tokens: float, steps: int) -> Training:
    """What is to be matched."""
    return Training(0, round(tokens), 0, steps, 0.0)


def counted(examples: int, tokens: int, epochs: float = 1.0) -> Training:
    """A mixture that was made."""
    return Training(examples, tokens, 0, 0, epochs)


def made(examples: int, mean: float, rng: random.Random, epochs: float = 1.0) -> Training:
    """A mixture of examples of different lengths."""
    return counted(examples, round(epochs * sum(rng.gauss(mean, 0.4 * mean) for _ in range(examples))), epochs)


@pytest.mark.parametrize("mean", [60, 90, 100, 130, 170])
@pytest.mark.parametrize("epochs", [1.0, 2.0])
def test_trying_again_ends_at_the_references_tokens_and_steps(mean: float, epochs: float) -> None:
    target, rng, asked = reference(epochs * 512 * 100, round(epochs * 32)), random.Random(int(mean)), 512
    for tries in range(1, MOST_TRIES + 1):
        found = made(asked, mean, rng, epochs)
        if is_match(target, found, tries=tries):
            break
        asked = next_examples(target, found, asked)
    assert is_match(target, found)
    assert abs(found.tokens - target.tokens) <= TOLERANCE * target.tokens
    steps = steps_of(asked, epochs, suited_batch_size(target, asked, epochs))
    assert abs(steps - target.steps) <= 1


@pytest.mark.parametrize("mean", [43.717, *(40 + each / 7 for each in range(40))])
def test_mixtures_that_come_out_the_same_each_time_are_matched_too(mean: float) -> None:
    target, asked = reference(45_941, 64), 1024
    for tries in range(1, MOST_TRIES + 1):
        found = counted(asked, round(asked * mean), 1.0)
        if is_match(target, found, tries=tries):
            break
        asked = next_examples(target, found, asked)
    assert is_match(target, found)


def test_a_mixture_that_lacks_examples_is_asked_for_more() -> None:
    assert next_examples(reference(40_000, 25), counted(300, 30_000, 1.0), 400) > 500
    assert next_examples(reference(40_000, 25), counted(0, 0, 1.0), 400) == 800


def test_equal_steps_are_looked_for_before_others_are_taken() -> None:
    target = reference(51_200, 32)
    found = counted(519, 51_200, 1.0)
    assert steps_of(519, 1.0, suited_batch_size(target, 519, 1.0)) != 32
    assert not is_match(target, found, tries=1)
    assert is_match(target, found)
    again = next_examples(target, found, 519)
    assert steps_of(again, 1.0, suited_batch_size(target, again, 1.0)) == 32


def test_the_usual_batch_size_stays_where_it_gives_the_same_steps() -> None:
    target = reference(4_000, 3)
    assert suited_batch_size(target, 40, 1.0, 16) == 16
    assert suited_batch_size(target, 40, 1.0) == 14
    assert suited_batch_size(target, 60, 1.0, 16) == 20


def test_what_cannot_be_matched_is_refused_with_the_figures_of_both() -> None:
    why = str(unmatched("round 2 of x", reference(40_000, 25), counted(300, 30_000, 1.0), 400))
    assert re.search(r"30,000 tokens in 25 steps.*40,000 in 25.*of 400 .* 100 are not there", why)
