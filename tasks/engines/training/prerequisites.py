"""What a training needs of this machine beside memory, looked at before anything is paid for, and what it finds there.

Loads no torch.
"""

import importlib.util
import os
import sys
from contextlib import suppress
from importlib import metadata

from tapir_core.config import TrainingConfig
from tapir_core.errors import MissingPrerequisite
from tasks.engines import machine

WANDB_KEY = "WANDB_API_KEY"

_REPORTERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Who can be reported to → the packages that do it, any of them."""

_LIBRARIES = ("torch", "transformers", "trl", "deepspeed", "accelerate", "peft", "flash_attn", "liger_kernel")
"""Those that a training's numbers depend on; the last two are the user's to install."""


def library_versions() -> dict[str, str]:
    """Of the libraries that a training's numbers depend on, as far as they are installed."""
    found = {}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def check_packages(training: TrainingConfig) -> None:
    """Refuse settings that this environment cannot follow.

    Raises:
        MissingPrerequisite: a package lacks, a GPU, or the key of Weights & Biases.
    """
    if training.attention == "flash_attention_2":
        setting, otherwise = 'training.attention = "flash_attention_2"', 'set it to "auto"'
        if not machine.visible_gpus():
            raise MissingPrerequisite(f"{setting} needs an NVIDIA GPU, and this machine has none; {otherwise}")
        _need(("flash_attn",), setting, otherwise)
    if training.quantized:
        _need(("bitsandbytes",), 'training.lora.quantization = "nf4"', "leave it out")
    for reporter in training.report_to:
        _need(_REPORTERS[reporter], f'training.report_to = "{reporter}"', "leave it out")
    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
    if "wandb" in training.report_to and not offline and not os.environ.get(WANDB_KEY):
        raise MissingPrerequisite(
            f'training.report_to = "wandb" needs a key, and {WANDB_KEY} is not set; run `export {WANDB_KEY}=…`, '
            "or `export WANDB_MODE=offline` to report into the run's logs/ alone"
        )


def _need(packages: tuple[str, ...], setting: str, otherwise: str) -> None:
    """One of the ``packages``, the first of which is to be installed."""
    if not any(map(importlib.util.find_spec, packages)):
        raise MissingPrerequisite(
            f"{setting} needs the package {packages[0]}, which {sys.prefix} lacks; run `{sys.executable} -m pip "
            f"install {packages[0]}`, or {otherwise}"
        )
