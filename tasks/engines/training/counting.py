"""How much a training is: its batches, and from them steps and tokens.

The trainer counts by this, and so does who wants to know before: they agree to the token.
"""

from typing import Any

from tasks.engines.training.batches import BatchPlan, plan_batches, plan_packed_batches
from tasks.engines.training.data import Corpus
from tasks.engines.training.job import TrainingCount, TrainingJob

__all__ = ["count_training", "plan_training"]


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
