"""What is looked at before a training: examples, steps, tokens, and memory; imports no torch.

A rank looks before its first step. The memory estimate is rough, activations most of all; it stops a training only
when weights, gradients and optimizer alone do not fit. The driver asks before any training begins: a child, which runs
this module, loads the tokenizer and counts (jobs as JSON on its standard input, counts as one line on its output).
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tapir_core.errors import ConfigError, EngineError, TapirError
from tasks.engines.keys import offline_environment
from tasks.engines.training.data import (
    IGNORED,
    BatchPlan,
    Corpus,
    count_training,
    encode,
    load_tokenizer,
    plan_training,
    read_conversations,
)
from tasks.engines.training.job import TrainingCount, TrainingJob, child_error, print_child_error

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What the estimate needs to know of a model."""

    parameters: int
    trained_parameters: int
    layers: int
    hidden: int
    vocabulary: int

    @classmethod
    def of(cls, model: Any) -> Self:
        """The size of a loaded one; ZeRO-3 keeps the true size of a partitioned weight in ``ds_numel``."""
        text = model.config.get_text_config()
        counts = [(getattr(each, "ds_numel", each.numel()), each.requires_grad) for each in model.parameters()]
        return cls(
            parameters=sum(count for count, _ in counts),
            trained_parameters=sum(count for count, trained in counts if trained),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            vocabulary=text.vocab_size,
        )


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that one process needs."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def states(self) -> int:
        """What is needed whatever the batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """All of it."""
        return self.states + self.activations

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in asdict(self).items())
        return f"{parts}; {self.total / _GIB:.2f} GiB"


def estimate_memory(job: TrainingJob, size: ModelSize, *, longest: int, world_size: int) -> MemoryEstimate:
    """Rough bytes a process, for its fullest micro-batch."""
    training = job.training
    width = 2 if training.precision == "bf16" else 4
    stage = training.zero_stage
    weights = size.parameters * width // (world_size if stage == 3 else 1)
    gradients = size.trained_parameters * width // (world_size if stage >= 2 else 1)
    # AdamW's two moments and DeepSpeed's fp32 copy of the weights
    optimizer = size.trained_parameters * 12 // (world_size if stage >= 1 else 1)
    tokens = training.micro_batch_size * (training.max_length if training.packing else longest)
    # about 17 values of the hidden size a token and layer, or one where they are recomputed; logits and their gradient
    held = size.layers * (1 if training.gradient_checkpointing else 17) + 17
    activations = tokens * (size.hidden * held * width + size.vocabulary * (width + 4))
    return MemoryEstimate(weights, gradients, optimizer, activations)


def check_masks(corpus: Corpus) -> None:
    """Every example has an answer of its own and ends, trained, with the closing token.

    Raises:
        ConfigError: one does not.
    """
    for number, example in enumerate(corpus.examples):
        trained = [label for label in example.labels if label != IGNORED]
        if len(trained) < 2 or trained[-1] != corpus.closing:
            raise ConfigError(
                f"example {number} trains {len(trained)} tokens and ends with token {example.tokens[-1]}, not with an "
                f"answer and the closing token {corpus.closing}; look at its messages and at the chat template"
            )


def check_memory(job: TrainingJob, estimate: MemoryEstimate, free: int) -> str | None:
    """A warning when the estimate exceeds the free memory.

    Raises:
        EngineError: not even weights, gradients and optimizer fit.
    """
    if estimate.total <= free:
        return None
    text = f"the training needs about {estimate.total / _GIB:.1f} GiB a process and {free / _GIB:.1f} GiB are free"
    if estimate.states > free:
        raise EngineError(f"{text} ({estimate}); {memory_remedy(job)}")
    return f"{text}; should it fail: {memory_remedy(job)}"


def memory_remedy(job: TrainingJob) -> str:
    """What to change when memory does not suffice."""
    training = job.training
    ways = [
        f"lower training.micro_batch_size (now {training.micro_batch_size})",
        f"lower training.max_length (now {training.max_length})",
    ]
    if not training.gradient_checkpointing:
        ways.append("set training.gradient_checkpointing = true")
    if training.lora is None:
        ways.append("set [training.lora]")
    if training.zero_stage < 3:
        ways.append(f"raise training.zero_stage (now {training.zero_stage}) and give more processes")
    return ", or ".join(ways)


def describe(
    job: TrainingJob, corpus: Corpus, plan: BatchPlan, *, world_size: int, device: str, memory: Sequence[str]
) -> str:
    """The pre-flight's report for the log."""
    training = job.training
    tokens = plan.tokens_by_step(corpus.lengths)
    lines = [
        f"world size    {world_size} ({device}), ZeRO stage {training.zero_stage}, {training.precision}"
        + (f", LoRA rank {training.lora.rank}" if training.lora else ""),
        f"batch         {training.batch_size} examples = {plan.accumulation} x {plan.micro_batch_size} x {world_size}"
        " (accumulated x micro-batch x processes)",
        f"examples      {len(corpus.examples)}, {job.epochs:g} epochs; {corpus.left_out} left out, longer than "
        f"{training.max_length} tokens",
        f"steps         {plan.steps}, {sum(tokens)} tokens, of what is computed "
        f"{0.0 if training.packing else plan.padding_share(corpus.lengths):.1%} is padding",
        *(f"memory        {line}" for line in memory),
    ]
    return "\n".join(["pre-flight", *(f"  {line}" for line in lines)])


def count_trainings(jobs: Sequence[TrainingJob]) -> list[TrainingCount]:
    """What ``training.json`` of each job will say of examples, steps and tokens; reads bases and mixtures, no more.

    Raises:
        ConfigError: a base or a mixture cannot be trained with, as `train_student` would say.
        EngineError: the count failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tasks.engines.training.preflight"],
        input=json.dumps([job.to_json() for job in jobs]),
        env=offline_environment(),
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-8:])
        raise child_error(done.stderr) or EngineError(f"the tokens of a training could not be counted:\n{last}")
    return [TrainingCount(**each) for each in json.loads(done.stdout.splitlines()[-1])]


def main(jobs: Sequence[TrainingJob]) -> int:
    """Print the counts, in the child; returns the exit code."""
    try:
        counts = [asdict(_count(job)) for job in jobs]
    except TapirError as error:
        print_child_error(error)
        return 1
    print(json.dumps(counts))
    return 0


def _count(job: TrainingJob) -> TrainingCount:
    corpus = encode(load_tokenizer(job), read_conversations(job.mixture), max_length=job.training.max_length)
    return count_training(job, corpus, plan_training(job, corpus, world_size=1))


if __name__ == "__main__":
    sys.exit(main([TrainingJob.from_json(each) for each in json.load(sys.stdin)]))
