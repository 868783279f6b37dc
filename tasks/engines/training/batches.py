"""Which examples go into which step: seeded order, groups of like length, no example lost or cut. Pure.

The examples of all epochs are one stream; every batch is full but the last. A batch is made of a few *bundles* of
examples of like length, drawn at random: bundles make padding small, and several of them keep a batch from being of
one length, and so of one kind of task, whose gradient serves that kind only. A *group* is what all ranks hold at one
time. The trainer counts steps and tokens by these batches, and so does who wants to know before: they agree to the
token.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tapir_core.randomness import derive_rng
from tasks.engines.training.data import Corpus
from tasks.engines.training.job import TrainingCount, TrainingJob

__all__ = [
    "BatchPlan",
    "count_training",
    "plan_batches",
    "plan_packed_batches",
    "plan_training",
]

WINDOW_BATCHES = 8
"""Bundles are cut from this many batches of the stream; more means less padding."""

BUNDLES = 4
"""Fewest bundles of a batch (where it has as many examples); more means more padding and more chance in a batch."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Every micro-batch of a training: ``groups[i][rank]`` holds the indices of the examples."""

    groups: list[list[list[int]]]
    accumulation: int
    """Groups of one optimizer step; the last step may have fewer."""
    micro_batch_size: int
    """Most examples that a rank holds at a time."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return math.ceil(len(self.groups) / self.accumulation)

    def of_rank(self, rank: int) -> list[list[int]]:
        """The micro-batches of one rank, in order."""
        return [group[rank] for group in self.groups]

    def tokens_by_step(self, lengths: Sequence[int]) -> list[int]:
        """Tokens of each step, padding not counted."""
        return [
            sum(
                lengths[index]
                for group in self.groups[start : start + self.accumulation]
                for cell in group
                for index in cell
            )
            for start in range(0, len(self.groups), self.accumulation)
        ]

    def padding_share(self, lengths: Sequence[int]) -> float:
        """Share of what the ranks compute that is padding, when each micro-batch is padded to its longest example."""
        cells = [[lengths[index] for index in cell] for group in self.groups for cell in group if cell]
        padded = sum(max(cell) * len(cell) for cell in cells)
        return 1 - sum(map(sum, cells)) / padded if padded else 0.0


def plan_batches(
    lengths: Sequence[int], *, epochs: float, batch_size: int, micro_batch_size: int, world_size: int, seed: int
) -> BatchPlan:
    """Plan a training without packing.

    A step has the fewest groups that fit ``micro_batch_size`` examples a rank; where they do not divide ``batch_size``,
    its last group is smaller. The loss is a mean over the tokens of a step, so groups may differ in size.
    """
    accumulation = math.ceil(batch_size / (micro_batch_size * world_size))
    # Whatever divides the batch size: arms of a comparison get sizes that fit, and must be mixed alike.
    bundle_size = max(1, batch_size // max(BUNDLES, accumulation))
    stream = list(_stream(len(lengths), epochs, seed))
    batches = _mixed_batches(stream, lengths, batch_size, bundle_size, seed)
    size = math.ceil(batch_size / accumulation)
    groups = [batch[first : first + size] for batch in batches for first in range(0, len(batch), size)]
    cells = [[group[rank::world_size] for rank in range(world_size)] for group in groups]
    return BatchPlan(cells, accumulation, math.ceil(size / world_size))


def plan_packed_batches(
    lengths: Sequence[int], *, epochs: float, batch_size: int, tokens_per_rank: int, world_size: int, seed: int
) -> BatchPlan:
    """Plan a training with packing: a micro-batch is one row of whole examples of at most ``tokens_per_rank`` tokens.

    The examples of a step are those of its batch, whatever their lengths; each rank gets about as many tokens.
    """
    stream = list(_stream(len(lengths), epochs, seed))
    batches = [stream[start : start + batch_size] for start in range(0, len(stream), batch_size)]
    rows = max(_rows_needed(batch, lengths, tokens_per_rank, world_size) for batch in batches)
    groups: list[list[list[int]]] = []
    for batch in batches:
        cells = _deal(batch, lengths, rows * world_size)
        groups += [cells[row * world_size : (row + 1) * world_size] for row in range(rows)]
    return BatchPlan(groups, rows, max(len(cell) for group in groups for cell in group))


def _mixed_batches(
    stream: Sequence[int], lengths: Sequence[int], batch_size: int, bundle_size: int, seed: int
) -> list[list[int]]:
    """Batches of random bundles of like length, each batch sorted by length; only the last can be short."""
    batches: list[list[int]] = []
    window_size = WINDOW_BATCHES * batch_size
    for start in range(0, len(stream), window_size):
        window = sorted(stream[start : start + window_size], key=lambda index: lengths[index])
        whole = len(window) // bundle_size * bundle_size
        bundles = [window[first : first + bundle_size] for first in range(0, whole, bundle_size)]
        derive_rng(seed, "bundles", start).shuffle(bundles)
        mixed = [index for bundle in bundles for index in bundle] + window[whole:]
        batches += [
            sorted(mixed[first : first + batch_size], key=lambda index: lengths[index])
            for first in range(0, len(mixed), batch_size)
        ]
    return batches


def _stream(count: int, epochs: float, seed: int) -> Iterator[int]:
    left = max(1, round(count * epochs))
    epoch = 0
    while left > 0:
        order = list(range(count))
        derive_rng(seed, "order", epoch).shuffle(order)
        yield from order[:left]
        left -= count
        epoch += 1


def _rows_needed(batch: Sequence[int], lengths: Sequence[int], tokens_per_rank: int, world_size: int) -> int:
    rows = math.ceil(sum(lengths[index] for index in batch) / (tokens_per_rank * world_size))
    while max(sum(lengths[i] for i in cell) for cell in _deal(batch, lengths, rows * world_size)) > tokens_per_rank:
        rows += 1
    return rows


def _deal(batch: Sequence[int], lengths: Sequence[int], cells: int) -> list[list[int]]:
    """Longest first, each to the cell with the fewest tokens: the cells come out nearly equal."""
    dealt: list[list[int]] = [[] for _ in range(cells)]
    filled = [0] * cells
    for index in sorted(batch, key=lambda index: (-lengths[index], index)):
        least = filled.index(min(filled))
        dealt[least].append(index)
        filled[least] += lengths[index]
    return dealt


def plan_training(job: TrainingJob, corpus: Corpus, world_size: int) -> BatchPlan:
    """The batches of a job; ``world_size`` changes neither their examples nor their number."""
    training = job.training
    common: dict[str, Any] = {
        "epochs": job.epochs,
        "batch_size": training.batch_size,
        "world_size": world_size,
        "seed": job.seed,
    }
    if training.packing:
        tokens = training.micro_batch_size * training.max_length
        return plan_packed_batches(corpus.lengths, tokens_per_rank=tokens, **common)
    return plan_batches(corpus.lengths, micro_batch_size=training.micro_batch_size, **common)


def count_training(job: TrainingJob, corpus: Corpus, plan: BatchPlan) -> TrainingCount:
    """What the planned training of a job comes to."""
    answers = [len(example.tokens) - example.prompt_length for example in corpus.examples]
    return TrainingCount(
        steps=plan.steps,
        batch_size=job.training.batch_size,
        epochs=job.epochs,
        examples=len(corpus.examples),
        left_out=corpus.left_out,
        trained_tokens=sum(plan.tokens_by_step(answers)),
        total_tokens=sum(plan.tokens_by_step(corpus.lengths)),
    )
