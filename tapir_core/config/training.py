"""How the student is fine-tuned (TRL's SFTTrainer under the DeepSpeed launcher)."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from tapir_core.config._base import Section

__all__ = ["BasicTuningConfig", "LoraConfig", "TrainingConfig"]


class LoraConfig(Section):
    """Low-rank adapters instead of all weights; they are merged into the checkpoint after training."""

    rank: PositiveInt = 16
    """Rank of the update."""

    alpha: PositiveFloat = 32.0
    """Scale of the update."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input."""


class TrainingConfig(Section):
    """What all fine-tunes of a run share; epochs and learning rate stand in `rounds` and `basic_tuning`."""

    free: ClassVar[tuple[str, ...]] = (
        *("zero_stage", "micro_batch_size", "gradient_checkpointing", "processes"),  # how much memory it takes
        *("runs_on", "save_minutes", "grace_seconds"),
    )

    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed's ZeRO stage: what is partitioned over the processes (1 optimizer, 2 + gradients, 3 + weights)."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 keeps fp32 master weights; fp32 keeps small updates of short runs (docs/training.md). `auto` is bf16 where
    the device computes in it, else fp32; `training.json` says which it was."""

    batch_size: PositiveInt = 128
    """Examples that one optimizer step sees, over all processes."""

    micro_batch_size: PositiveInt = 8
    """Examples that one process holds at a time; the rest of the batch is accumulated."""

    max_length: PositiveInt = 2048
    """Longest example in tokens; a longer one is left out and counted, never cut."""

    packing: bool = False
    """Fill sequences of `max_length` with several examples; needs FlashAttention, which keeps them apart."""

    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate."""

    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps over which the learning rate rises."""

    weight_decay: NonNegativeFloat = 0.0
    """AdamW's weight decay."""

    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights."""

    runs_on: Literal["driver", "worker"] = "driver"
    """Where it trains: in the process that drives the run, or on a worker of the pool `tapir-gpu`, through the
    deployment *fine-tune* (docs/gpu-workers.md)."""

    processes: PositiveInt | None = None
    """Ranks on this machine; nothing means one for each accelerator, or one on a CPU."""

    save_minutes: PositiveFloat = 10.0
    """Minutes between two resumable checkpoints: what a kill can cost at most."""

    grace_seconds: NonNegativeFloat = 10.0
    """Seconds that a stopped training has for one more checkpoint."""


class BasicTuningConfig(Section):
    """S_0: basic instruction following, from a sample of the pool with the teacher's plain answers."""

    examples: PositiveInt = 52000
    """Examples drawn from the usable pool by its natural shares (all of it when it has fewer)."""

    epochs: PositiveFloat = 3.0
    """Passes over them."""

    learning_rate: PositiveFloat = 2e-5
    """Peak learning rate."""
