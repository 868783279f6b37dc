import tracemalloc
from collections import Counter
from statistics import fmean, pstdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.engines.training.data import BatchPlan, Lengths, plan_batches, plan_packed_batches

lengths_lists = st.lists(st.integers(2, 60), min_size=1, max_size=60).map(np.array)
small = st.integers(1, 9)


def seen(plan: BatchPlan) -> list[int]:
    return [index for group in plan.groups for cell in group for index in cell]


def batches(plan: BatchPlan) -> list[list[int]]:
    steps = range(0, len(plan.groups), plan.accumulation)
    return [
        [index for group in plan.groups[start : start + plan.accumulation] for cell in group for index in cell]
        for start in steps
    ]


@given(lengths_lists, st.floats(0.2, 3), small, small, st.integers(1, 4), st.integers(0, 99))
@settings(deadline=None)
def test_every_example_is_seen_once_an_epoch_and_only_the_last_batch_is_short(
    lengths: Lengths, epochs: float, batch_size: int, micro: int, world: int, seed: int
) -> None:
    plan = plan_batches(
        lengths, epochs=epochs, batch_size=batch_size, micro_batch_size=micro, world_size=world, seed=seed
    )
    times = Counter(seen(plan))
    assert sum(times.values()) == max(1, round(len(lengths) * epochs))
    assert max(times.values()) - min(times.get(index, 0) for index in range(len(lengths))) <= 1
    sizes = [len(batch) for batch in batches(plan)]
    assert all(size == batch_size for size in sizes[:-1])
    assert len(sizes) == plan.steps


def test_a_plan_holds_little_of_each_example() -> None:
    lengths = np.full(100_000, 100, np.int32)
    tracemalloc.start()
    plan = plan_batches(lengths, epochs=1, batch_size=64, micro_batch_size=8, world_size=1, seed=1)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(plan.groups) == 12_500
    assert held < 32 * len(lengths), "bytes; each rank holds a plan"


@given(lengths_lists, small, small, st.integers(1, 4))
@settings(deadline=None)
def test_no_rank_holds_more_than_the_micro_batch(lengths: Lengths, batch_size: int, micro: int, world: int) -> None:
    plan = plan_batches(lengths, epochs=2, batch_size=batch_size, micro_batch_size=micro, world_size=world, seed=1)
    assert all(len(cell) <= min(micro, plan.micro_batch_size) for group in plan.groups for cell in group)
    assert {len(group) for group in plan.groups} == {world}


def test_a_batch_size_that_micro_batches_do_not_divide_is_held_in_as_few_of_like_size_as_fit() -> None:
    for batch_size, parts, largest in ((37, 5, 8), (23, 3, 8), (17, 3, 6), (15, 2, 8), (35, 5, 7), (6, 1, 6)):
        plan = plan_batches(np.full(100, 9), epochs=1, batch_size=batch_size, micro_batch_size=8, world_size=1, seed=1)
        assert (plan.accumulation, plan.micro_batch_size) == (parts, largest)
        assert [len(batch) for batch in batches(plan)][:-1] == [batch_size] * (plan.steps - 1)


def test_eight_ranks_of_one_see_the_same_batches_as_two_ranks_of_four() -> None:
    lengths = 3 + 7 * np.arange(100) % 50
    wide = plan_batches(lengths, epochs=2, batch_size=16, micro_batch_size=1, world_size=8, seed=5)
    narrow = plan_batches(lengths, epochs=2, batch_size=16, micro_batch_size=4, world_size=2, seed=5)
    assert [sorted(batch) for batch in batches(wide)] == [sorted(batch) for batch in batches(narrow)]


def test_the_seed_fixes_the_order_and_another_seed_changes_it() -> None:
    lengths = 3 + 7 * np.arange(64) % 50

    def order(seed: int) -> list[int]:
        return seen(plan_batches(lengths, epochs=1, batch_size=8, micro_batch_size=4, world_size=1, seed=seed))

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_bundles_of_like_length_leave_little_padding() -> None:
    lengths = 20 + (37 * np.arange(512)) % 180
    plan = plan_batches(lengths, epochs=1, batch_size=32, micro_batch_size=8, world_size=1, seed=1)
    assert plan.padding_share(lengths, lengths) < 0.05
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches(plan)]
    assert sum(spread) / len(spread) > 60, "batches became batches of one length"


def test_batches_are_as_mixed_whatever_divides_their_size() -> None:
    """Or arms of a comparison, whose batch sizes are made to fit, would differ in it too."""
    lengths = 20 + (37 * np.arange(2048)) % 180

    def spread(batch_size: int) -> float:
        """Of the batches' mean lengths, as a multiple of what drawing each example by itself would give."""
        plan = plan_batches(lengths, epochs=1, batch_size=batch_size, micro_batch_size=8, world_size=1, seed=1)
        means = [fmean(lengths[batch].tolist()) for batch in batches(plan) if len(batch) == batch_size]
        return pstdev(means) / (pstdev(lengths.tolist()) / batch_size**0.5)

    usual = spread(16)
    for batch_size in (12, 13, 14, 15, 17, 18, 19, 21, 22, 23, 24):
        assert 0.7 < spread(batch_size) / usual < 1.4, batch_size


@given(st.lists(st.integers(2, 60), min_size=1, max_size=40).map(np.array), small, st.integers(1, 3))
@settings(deadline=None)
def test_packed_rows_hold_whole_examples_and_never_too_many_tokens(
    lengths: Lengths, batch_size: int, world: int
) -> None:
    plan = plan_packed_batches(lengths, epochs=2, batch_size=batch_size, tokens_per_rank=64, world_size=world, seed=1)
    assert Counter(seen(plan)) == Counter(dict.fromkeys(range(len(lengths)), 2))
    assert all(sum(lengths[index] for index in cell) <= 64 for group in plan.groups for cell in group)
    assert [len(batch) for batch in batches(plan)][:-1] == [batch_size] * (plan.steps - 1)


def test_tokens_by_step_count_every_token_once() -> None:
    lengths = np.array([5, 6, 7, 8, 9])
    plan = plan_batches(lengths, epochs=1, batch_size=2, micro_batch_size=2, world_size=1, seed=1)
    assert sum(plan.tokens_by_step(lengths)) == sum(lengths)
    assert len(plan.tokens_by_step(lengths)) == plan.steps == 3


def test_a_pair_is_padded_to_the_longer_of_its_conversations() -> None:
    """Of 10 and 30 tokens: each of four is computed as two of 30."""
    plan = plan_batches(np.full(4, 60), epochs=1, batch_size=2, micro_batch_size=2, world_size=1, seed=1)
    assert plan.padding_share(np.full(4, 40), np.full(4, 60)) == pytest.approx(1 / 3)
