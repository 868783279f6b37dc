"""What a training needs of this machine, looked at before anything is paid for or loaded: packages and memory.

Sizes are read from the headers of a checkpoint's safetensors and from its config.json. What DeepSpeed, AdamW and a
layer hold was measured with one process: on a CPU estimates lie within 20 % of the peak, on an H200 3 to 7 % above it,
or more where Liger's layers take less (docs/LOG.md); tests hold them to both. A training is refused only where weights,
gradients and optimizer alone do not fit. Loads no torch.
"""

import importlib.util
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from safetensors import SafetensorError, safe_open

from tapir_core import installation
from tapir_core.config import Prefer, RunConfig, TrainingConfig
from tapir_core.errors import MissingPrerequisite
from tasks.engines import machine

WANDB_KEY = "WANDB_API_KEY"

_REPORTERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Who can be reported to → the packages that do it, any of them."""

_VERSIONED = ("torch", "transformers", "trl", "deepspeed", "accelerate", "peft", "flash_attn", "liger_kernel")
"""Those that a training's numbers depend on; the last two are the user's to install."""


def library_versions() -> dict[str, str]:
    """Of the libraries that a training's numbers depend on, as far as they are installed."""
    return {name: version for name in _VERSIONED if (version := installation.version_of(name))}


def check_packages(training: TrainingConfig) -> None:
    """Refuse settings that this environment cannot follow.

    Raises:
        MissingPrerequisite: a package lacks, a GPU, or the key of Weights & Biases.
    """
    is_flash = training.attention == "flash_attention_2"
    if is_flash and not machine.visible_gpus():
        raise MissingPrerequisite(
            'training.attention = "flash_attention_2" needs an NVIDIA GPU, and this machine has none; set it to "auto"'
        )
    settings = [
        (is_flash, 'training.attention = "flash_attention_2"', ("flash_attn",), 'set it to "auto"'),
        (training.quantized, 'training.lora.quantization = "nf4"', ("bitsandbytes",), "leave it out"),
        *((True, f'training.report_to = "{each}"', _REPORTERS[each], "leave it out") for each in training.report_to),
    ]
    for is_set, setting, packages, otherwise in settings:
        if is_set and not any(map(importlib.util.find_spec, packages)):
            raise MissingPrerequisite(
                f"{setting} needs the package {packages[0]}, which {sys.prefix} lacks; run `{sys.executable} -m pip "
                f"install {packages[0]}`, or {otherwise}"
            )
    has_key = os.environ.get(WANDB_KEY) or os.environ.get("WANDB_MODE") in ("offline", "disabled")
    if "wandb" in training.report_to and not has_key:
        raise MissingPrerequisite(
            f'training.report_to = "wandb" needs a key, and {WANDB_KEY} is not set; run `export {WANDB_KEY}=…`, '
            "or `export WANDB_MODE=offline` to report into the run's logs/ alone"
        )


_GIB = 2**30

_MOMENTS, _STATES = 8, 12
"""Bytes of optimizer a trained weight: AdamW's two moments, and with DeepSpeed's copy, in fp32."""

_FP32 = 4
"""Bytes of gradient a trained weight: they are accumulated in fp32."""

_TILE = 4096, 32768
"""Positions and tokens whose logits TRL holds at a time on a GPU (`trl.kernels.chunked_logprob`)."""

_ROOM = 1.5
"""Estimates may be a fifth too low, and others may want memory meanwhile."""

_LIBRARIES = int(0.2 * _GIB)
"""What they come to hold by training."""

_OFFLOADED = {"none": (), "optimizer": ("gradients", "optimizer"), "all": ("weights", "gradients", "optimizer")}
"""`training.offload` → what a GPU leaves to the machine's memory; what it fetches of that is not counted."""

_NOT_ADAPTED = ("embed", "lm_head", "wte")
"""In the names of matrices that LoRA leaves alone."""

_NF4 = 0.516
"""Bytes of a weight in 4 bits, with the scales of its block (arXiv 2305.14314, section 3)."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What memory depends on."""

    weights: int
    adapted: int
    """Rows and columns of all matrices that LoRA adapts: of each rank one weight."""
    under_adapters: int
    """Weights of these matrices."""
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int


def size_of(checkpoint: Path) -> ModelSize | None:
    """The size of the model in a folder; nothing where its files do not say."""
    shapes: dict[str, list[int]] = {}
    index, files = checkpoint / "model.safetensors.index.json", {"model.safetensors"}
    try:
        if index.exists():
            # Some models bring the same weights in another layout beside those that transformers loads.
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for file in sorted(files):
            with safe_open(checkpoint / file, framework="numpy") as opened:
                names = opened.keys()
                shapes |= {name: opened.get_slice(name).get_shape() for name in names}
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        text = config.get("text_config", config)
        layers, hidden, vocabulary = (text[each] for each in ("num_hidden_layers", "hidden_size", "vocab_size"))
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    matrices = [each for name, each in shapes.items() if len(each) == 2 and not any(no in name for no in _NOT_ADAPTED)]
    return ModelSize(
        weights=sum(map(math.prod, shapes.values())),
        adapted=sum(map(sum, matrices)),
        under_adapters=sum(map(math.prod, matrices)),
        layers=layers,
        hidden=hidden,
        intermediate=text.get("intermediate_size") or 4 * hidden,
        vocabulary=vocabulary,
    )


def estimate_memory(
    training: TrainingConfig,
    size: ModelSize,
    *,
    in_bf16: bool,
    longest: int,
    processes: int,
    on_gpu: bool = False,
    holds_logits: bool = False,
) -> dict[str, int]:
    """Bytes that one process needs, by what they hold: `activations` are those of its fullest micro-batch or of a step.

    Args:
        training: How it is trained.
        size: Of the model.
        in_bf16: Whether it computes in bfloat16, and not in float32.
        longest: Tokens of the longest example.
        processes: Over which ZeRO partitions.
        on_gpu: Whether the loss is computed in tiles, with the model's last matrix, and no logits are held.
        holds_logits: Whether they are all the same, as `OnPolicy.loss` "forward_kl" does.
    """
    # In bf16 stage 0 is trained as stage 1; without it, fp32 weights need no copy.
    stage, width = max(1, training.zero_stage) if in_bf16 else training.zero_stage, 2 if in_bf16 else 4
    trained = size.weights if training.lora is None else training.lora.rank * size.adapted
    tokens = training.micro_batch_size * (training.max_length if training.packing else longest)
    # Values of a token that a layer keeps for the way back, or its input alone where they are recomputed.
    layer = 14 * size.hidden + 4 * size.intermediate
    if training.lora is not None:
        # Adapters are fp32, and so is what goes into them.
        layer += (6 * size.hidden + size.intermediate) * _FP32 // width
    held = size.layers * size.hidden + layer if training.gradient_checkpointing else size.layers * layer
    # Logits, those of them that have a loss, in fp32, their softmax and its gradient.
    logits = tokens * size.vocabulary * (2 * width + 3 * _FP32)
    if on_gpu:
        # The last matrix's gradient, where it is trained: summed in fp32, then handed on as wide as the weights.
        head = 0 if training.lora else size.vocabulary * size.hidden * (_FP32 + width)
        tile = min(tokens, _TILE[0]) * min(size.vocabulary, _TILE[1]) * width
        logits = (logits if holds_logits else tile) + head
    activations = tokens * held * width + logits
    # In a step, when activations are gone, ZeRO flattens what is accumulated, beside the gradients as they came. In
    # bf16 stage 2 has it flat already; a CPU's process was seen to grow all the same.
    is_flat = on_gpu and in_bf16 and stage == 2
    step = 0 if is_flat else trained * (width + (_FP32 if stage >= 1 else 0)) // (processes if stage >= 2 else 1)
    saved = int(size.under_adapters * (width - _NF4)) if training.quantized else 0
    return {
        "weights": (size.weights * width - saved) // (processes if stage == 3 else 1),
        "gradients": trained * _FP32 // (processes if stage >= 2 else 1),
        "optimizer": trained * _STATES // processes if stage >= 1 else trained * _MOMENTS,
        "activations": max(activations, step) + _LIBRARIES,
    }


def check_memory(
    training: TrainingConfig, needed: Mapping[str, int], free: int, beside: int | None = None
) -> list[str]:
    """What to say of an estimate: itself beside the free memory, and a warning when it exceeds that.

    Args:
        training: How it is trained.
        needed: As `estimate_memory` says.
        free: Bytes for a process where it computes.
        beside: Bytes for a process in the machine's memory, to which a GPU can leave some; none where there is no GPU.

    Raises:
        MissingPrerequisite: not even weights, gradients and optimizer fit.
    """
    moved = () if beside is None else _OFFLOADED[training.offload]
    lines = _check_one(training, {name: size for name, size in needed.items() if name not in moved}, free)
    if beside is not None and moved:
        parts = {name: needed[name] for name in moved}
        lines += [f"offloaded to the machine: {line}" for line in _check_one(training, parts, beside)]
    return lines


def _check_one(training: TrainingConfig, needed: Mapping[str, int], free: int) -> list[str]:
    """Of one kind of memory."""
    total = sum(needed.values())
    parts = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in needed.items())
    estimate = f"{parts} = {total / _GIB:.2f} GiB"
    lines = [f"{estimate} a process, {free / _GIB:.2f} GiB free"]
    if total > free:
        text = f"the training needs about {total / _GIB:.1f} GiB a process and {free / _GIB:.1f} GiB are free"
        if total - needed.get("activations", 0) > free:
            raise MissingPrerequisite(f"{text} ({estimate}); {memory_remedy(training, fits=False)}")
        lines.append(f"{text}; should it fail: {memory_remedy(training)}")
    return lines


def memory_remedy(training: TrainingConfig, *, fits: bool = True) -> str:
    """What to change when memory does not suffice, the cheapest first.

    ``fits``: weights, gradients and optimizer do.
    """
    on_gpu, offload = bool(machine.visible_gpus()), training.offload
    # What ZeRO may partition, and a GPU leave elsewhere: no weights of 4 bits.
    most_stage = 2 if training.quantized else 3
    ways = [
        (fits, f"lower training.micro_batch_size (now {training.micro_batch_size})"),
        (fits, f"lower training.max_length (now {training.max_length})"),
        (training.lora is None, "set [training.lora]"),
        (fits and not training.gradient_checkpointing, "set training.gradient_checkpointing = true"),
        (
            training.zero_stage < most_stage,
            f"raise training.zero_stage (now {training.zero_stage}) and give more processes",
        ),
        (on_gpu and offload == "none", 'set training.offload = "optimizer"'),
        (on_gpu and offload != "all" and most_stage == 3, 'set training.offload = "all" with training.zero_stage = 3'),
        (
            training.lora is not None and not training.quantized and training.zero_stage < 3,
            'set training.lora.quantization = "nf4"',
        ),
        (not fits, "take a smaller student.backbone"),
    ]
    return ", or ".join(way for helps, way in ways if helps)


def look_ahead(config: RunConfig, backbone: Path) -> list[str]:
    """What `check_memory` says of this machine when nothing else is on it, for examples of the greatest length.

    It is that of the round which needs most. Nothing where the model does not say how large it is, or the driver of the
    GPUs what they hold.

    Raises:
        MissingPrerequisite: as `check_memory`.
    """
    gpus, needed = machine.visible_gpus(), _needed(config, backbone)
    of_machine = psutil.virtual_memory().total // _processes(config.training)
    held = machine.gpu_memory() if gpus else [of_machine]
    return (
        []
        if needed is None or not held
        else check_memory(config.training, needed, min(held), of_machine if gpus else None)
    )


def needed_at_once(config: RunConfig, backbone: Path) -> int | None:
    """Bytes that a training takes at most, of each GPU where there are any, else of this machine; None if unknown."""
    if (needed := _needed(config, backbone)) is None:
        return None
    if not machine.visible_gpus():
        return int(sum(needed.values()) * _processes(config.training) * _ROOM)
    return int(sum(size for name, size in needed.items() if name not in _OFFLOADED[config.training.offload]) * _ROOM)


def _processes(training: TrainingConfig) -> int:
    return training.processes or len(machine.visible_gpus()) or 1


def _needed(config: RunConfig, backbone: Path) -> dict[str, int] | None:
    """As `estimate_memory`, for the examples of the greatest length that this machine may train on."""
    training, gpus, size = config.training, machine.visible_gpus(), size_of(backbone)
    if size is None:
        return None
    in_bf16 = training.precision == "bf16" or (
        training.precision == "auto"
        and (bool(gpus) or machine.computes_in_bf16(broken_amx=machine.amx_is_broken(sys.executable)))
    )
    # A pair is held together.
    least = 2 if any(isinstance(config.objective(number), Prefer) for number in config.round_numbers) else 1
    return estimate_memory(
        training.model_copy(update={"micro_batch_size": max(least, training.micro_batch_size)}),
        size,
        in_bf16=in_bf16,
        longest=training.max_length,
        processes=_processes(training) * training.nodes,
        on_gpu=bool(gpus),
        holds_logits=any(config.objective(number).scored_top_k for number in config.round_numbers),
    )
