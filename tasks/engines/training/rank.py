"""One rank of a fine-tune: TRL's SFTTrainer with DeepSpeed, on the job that a JSON file describes.

Run as ``python -m tasks.engines.training.rank JOB.json`` by `trainer.py`, never by hand; its environment says which one
it is. What a user can act on is printed as one line ``tapir error <kind>: <message>``, which `trainer.py` raises again.

Before its first step it looks at memory. The estimate is rough, activations most of all; it stops a training only when
weights, gradients and optimizer alone do not fit.
"""

import json
import math
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import deepspeed
import psutil
import torch
from datasets import Dataset
from torch.distributed import TCPStore
from transformers.utils import is_flash_attn_2_available, logging
from trl import SFTConfig

from tapir_core.errors import EngineError, MissingPrerequisite, TapirError
from tasks.engines.training import data, sft
from tasks.engines.training.job import (
    Attempt,
    TrainingJob,
    TrainingSummary,
    newest_save,
    print_child_error,
    sync_folder,
)

_STOPPED = 75
"""Exit code after SIGTERM: the job is unfinished and can go on."""

_GIB = 2**30
_LIBRARIES = ("torch", "transformers", "trl", "deepspeed", "accelerate", "peft")
"""Those that a training's numbers depend on."""


def main(job_file: Path) -> int:
    """Train; returns the exit code."""
    job = sft.settle_precision(TrainingJob.from_json(json.loads(job_file.read_text())))
    # DeepSpeed would compile a shared-memory reduction for CPUs; a fresh machine has no compiler.
    deepspeed.ops.__compatible_ops__ = {}
    logging.disable_progress_bar()
    _served = _rendezvous()
    try:
        return _train(job)
    except TapirError as error:
        print_child_error(error)
        return 1


def _train(job: TrainingJob) -> int:
    attempt, world_size = Attempt(job.output), int(os.environ["WORLD_SIZE"])
    if job.training.packing and not is_flash_attn_2_available():
        raise MissingPrerequisite(
            "training.packing = true needs FlashAttention 2 (package flash-attn and an NVIDIA GPU), or packed examples "
            "would see each other; install it, or set training.packing = false"
        )
    planned = data.plan_training(job, world_size)
    save = newest_save(attempt.saves, world_size=world_size)
    earlier_seconds = save.seconds if save else 0.0
    # Before the model: ZeRO-3 loads it in parts.
    settings = SFTConfig(**sft.sft_settings(job, planned.plan, on_cpu=not torch.cuda.is_available()))
    watch = sft.Watch(job, planned.plan.tokens_by_step(planned.corpus.lengths), earlier_seconds=earlier_seconds)
    trainer = sft.PlannedTrainer(
        plan=planned.plan,
        watch=watch,
        resumed_from_steps=(*save.resumed_from_steps, save.step) if save else (),
        model=sft.load_model(job),
        args=settings,
        train_dataset=_dataset(planned.corpus),
        processing_class=planned.tokenizer,
        peft_config=sft.lora_config(job),
    )
    _look_before(planned, trainer)
    if save and trainer.is_world_process_zero():
        print(f"resuming from step {save.step}", flush=True)
    trainer.train(resume_from_checkpoint=str(attempt.saves / save.name) if save else None)
    if watch.stopped and trainer.state.global_step < trainer.state.max_steps:
        print(f"stopped by SIGTERM after step {trainer.state.global_step}; the same command goes on", flush=True)
        return _STOPPED
    _finish(planned, trainer)
    return 0


def _dataset(corpus: data.Corpus) -> Dataset:
    """All examples, and last the filler without labels."""
    filler = [corpus.closing] * 2
    return Dataset.from_dict(
        {
            "input_ids": [*(example.tokens for example in corpus.examples), filler],
            "labels": [*(example.labels for example in corpus.examples), [data.IGNORED] * len(filler)],
        }
    )


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


def check_memory(job: TrainingJob, estimate: MemoryEstimate, free: int) -> str | None:
    """A warning when the estimate exceeds the free memory.

    Raises:
        EngineError: not even weights, gradients and optimizer fit.
    """
    if estimate.total <= free:
        return None
    text = f"the training needs about {estimate.total / _GIB:.1f} GiB a process and {free / _GIB:.1f} GiB are free"
    if estimate.states > free:
        raise EngineError(f"{text} ({estimate}); {job.memory_remedy}")
    return f"{text}; should it fail: {job.memory_remedy}"


def _look_before(planned: data.PlannedTraining, trainer: sft.PlannedTrainer) -> None:
    """Print the pre-flight: what is trained, and whether memory will do."""
    job, world_size, device = planned.job, trainer.args.world_size, trainer.args.device.type
    longest = max(planned.corpus.lengths)
    estimate = estimate_memory(job, ModelSize.of(trainer.model), longest=longest, world_size=world_size)
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available // world_size
    warning = check_memory(job, estimate, free)
    if trainer.is_world_process_zero():
        memory = [f"{estimate} a process, {free / _GIB:.2f} GiB free", *([warning] if warning else [])]
        print(_describe(planned, world_size, device, memory))
        example = data.mark_trained(planned.tokenizer, planned.corpus.examples[0])
        print(f"  one example, trained between ⟦ and ⟧:\n{example}", flush=True)


def _describe(planned: data.PlannedTraining, world_size: int, device: str, memory: Sequence[str]) -> str:
    training, plan, count = planned.job.training, planned.plan, planned.count()
    lines = [
        f"world size    {world_size} ({device}), ZeRO stage {training.zero_stage}, {training.precision}"
        + (f", LoRA rank {training.lora.rank}" if training.lora else ""),
        f"batch         {training.batch_size} examples = {plan.accumulation} x {plan.micro_batch_size} x {world_size}"
        " (accumulated x micro-batch x processes)",
        f"examples      {count.examples}, {count.epochs:g} epochs; {count.left_out} left out, longer than "
        f"{training.max_length} tokens",
        f"steps         {count.steps}, {count.total_tokens} tokens, of what is computed "
        f"{planned.padding_share:.1%} is padding",
        *(f"memory        {line}" for line in memory),
    ]
    return "\n".join(["pre-flight", *(f"  {line}" for line in lines)])


def _finish(planned: data.PlannedTraining, trainer: sft.PlannedTrainer) -> None:
    """Write the student and its summary under a temporary name, then give it its place."""
    job, attempt = planned.job, Attempt(planned.job.output)
    # Only ZeRO-3 has no rank with whole weights; collecting them is collective. Otherwise the model keeps its ties.
    state = trainer.accelerator.get_state_dict(trainer.deepspeed) if job.training.zero_stage == 3 else None
    if not trainer.is_world_process_zero():
        return
    folder, model = attempt.unfinished_checkpoint, trainer.model
    if job.training.lora:
        adapter = attempt.folder / "adapter"
        model.save_pretrained(adapter, state_dict=state)
        model, state = sft.merge_adapter(job, adapter), None
    sft.write_student(model, planned.tokenizer, state, folder, closing=planned.corpus.closing)
    summary = json.dumps(asdict(_summary(planned, trainer)), indent=1)
    (folder / attempt.summary_file.name).write_text(summary)
    sync_folder(folder)
    folder.rename(attempt.checkpoint)


def _summary(planned: data.PlannedTraining, trainer: sft.PlannedTrainer) -> TrainingSummary:
    training, count, seconds = planned.job.training, planned.count(), trainer.watch.seconds
    curve = [
        {name: entry[name] for name in ("step", "loss", "learning_rate", "grad_norm") if name in entry}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    if not all(math.isfinite(entry["loss"]) for entry in curve):
        raise EngineError(
            'the loss became infinite or no number; lower the learning rate, or use training.precision = "fp32"'
        )
    assert trainer.state.global_step == count.steps, "the trainer made other steps than were planned"
    return TrainingSummary(
        **asdict(count),
        padding_share=round(planned.padding_share, 4),
        seconds=round(seconds, 2),
        tokens_per_second=round(count.total_tokens / seconds, 1),
        final_loss=curve[-1]["loss"],
        loss_curve=curve,
        world_size=trainer.args.world_size,
        device=trainer.args.device.type,
        precision=training.precision,
        zero_stage=training.zero_stage,
        resumed_from_steps=list(trainer.resumed_from_steps),
        versions={name: metadata.version(name) for name in _LIBRARIES},
    )


def _rendezvous() -> TCPStore | None:
    """What serves the address at which all ranks are to meet, for as long as it lives; the first of them has it.

    On 127.0.0.1: what torch would make listens on every address. The process group itself is made by DeepSpeed.
    """
    # So torch connects in every rank and serves in none.
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    if os.environ["RANK"] != "0":
        return None
    port, ranks = int(os.environ["MASTER_PORT"]), int(os.environ["WORLD_SIZE"])
    listening = socket.create_server(("127.0.0.1", port))
    return TCPStore("127.0.0.1", port, ranks, True, wait_for_workers=False, master_listen_fd=listening.detach())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
