"""Load the student that is trained and write the one that was: weights, tokenizer, chat template, generation config."""

import importlib.metadata
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tapir_core.errors import ConfigError
from tasks.engines.machine import WITHOUT_AMX, computes_in_bf16
from tasks.engines.training.job import TrainingJob

__all__ = [
    "load_model",
    "load_tokenizer",
    "lora_config",
    "merge_adapter",
    "settle_precision",
    "versions",
    "write_student",
]


def load_tokenizer(job: TrainingJob) -> Any:
    """The base's tokenizer, with the job's chat template if it has one.

    Raises:
        ConfigError: the base is no checkpoint.
    """
    if not (job.base / "config.json").exists():
        raise ConfigError(
            f"{job.base} holds no config.json; a student is a folder of config, safetensors and tokenizer"
        )
    tokenizer = AutoTokenizer.from_pretrained(job.base, trust_remote_code=False)
    if job.chat_template is not None:
        tokenizer.chat_template = job.chat_template.read_text()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def settle_precision(job: TrainingJob) -> TrainingJob:
    """The job with ``precision = "auto"`` decided for this rank's device."""
    if job.training.precision != "auto":
        return job
    precision = "bf16" if _computes_in_bf16() else "fp32"
    return replace(job, training=job.training.model_copy(update={"precision": precision}))


def load_model(job: TrainingJob) -> Any:
    """The base's weights in the job's precision."""
    training = job.training
    return AutoModelForCausalLM.from_pretrained(
        job.base,
        dtype=_dtype(job),
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation="flash_attention_2" if training.packing else "sdpa",
    )


def lora_config(job: TrainingJob) -> Any:
    """PEFT's configuration of the adapters, or nothing."""
    lora = job.training.lora
    if lora is None:
        return None
    from peft import LoraConfig  # only here: it costs half a second of every start

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def write_student(model: Any, tokenizer: Any, state: dict[str, Any] | None, folder: Path, *, closing: int) -> None:
    """Write a whole checkpoint that stops at ``closing`` when it is served."""
    stops = model.generation_config.eos_token_id
    stops = [] if stops is None else [stops] if isinstance(stops, int) else list(stops)
    if closing not in stops:
        model.generation_config.eos_token_id = [closing, *stops]
    if folder.exists():
        shutil.rmtree(folder)
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)


def merge_adapter(job: TrainingJob, adapter: Path) -> Any:
    """The base with a trained adapter added into its weights."""
    from peft import PeftModel
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # under ZeRO-3 the base would be loaded in parts, by all ranks
    base = AutoModelForCausalLM.from_pretrained(
        job.base, dtype=_dtype(job), trust_remote_code=False, use_safetensors=True
    )
    return PeftModel.from_pretrained(base, adapter).merge_and_unload()


def versions() -> dict[str, str]:
    """Versions of the libraries that a training's numbers depend on."""
    names = ("torch", "transformers", "trl", "deepspeed", "accelerate", "peft")
    return {name: importlib.metadata.version(name) for name in names}


def _computes_in_bf16() -> bool:
    """Whether this rank's device is faster in bf16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return computes_in_bf16(broken_amx=WITHOUT_AMX.items() <= os.environ.items())


def _dtype(job: TrainingJob) -> torch.dtype:
    return torch.bfloat16 if job.training.precision == "bf16" else torch.float32
