"""From a job to the settings of DeepSpeed and TRL. Pure: plain dictionaries, no torch."""

from typing import Any

from tasks.engines.training.batches import BatchPlan
from tasks.engines.training.job import Attempt, TrainingJob

__all__ = ["deepspeed_config", "sft_settings"]

_BUCKET_ELEMENTS = 50_000_000
"""Elements of DeepSpeed's communication buffers: its default of 500 million takes 2 GB for any model."""


def deepspeed_config(job: TrainingJob, plan: BatchPlan) -> dict[str, Any]:
    """DeepSpeed's configuration. The optimizer is torch's AdamW: nothing is compiled, so no compiler is needed."""
    training = job.training
    return {
        "train_micro_batch_size_per_gpu": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.accumulation,
        "gradient_clipping": training.max_grad_norm,
        "bf16": {"enabled": training.precision == "bf16"},
        "zero_optimization": {
            # In bf16, stage 0 drifts from fp32 (loss 6.29 for 6.22 after six steps); stage 1 follows it.
            "stage": max(1, training.zero_stage) if training.precision == "bf16" else training.zero_stage,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }


def sft_settings(job: TrainingJob, plan: BatchPlan, *, on_cpu: bool) -> dict[str, Any]:
    """Arguments of `SFTConfig`. The plan already holds all epochs, so the trainer sees one."""
    training = job.training
    return {
        "output_dir": str(Attempt(job.output).saves),
        "num_train_epochs": 1,
        "per_device_train_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.accumulation,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": training.scheduler if training.scheduler != "constant" else "constant_with_warmup",
        "warmup_steps": round(plan.steps * training.warmup_ratio),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": "adamw_torch_fused",
        "seed": job.seed,
        "bf16": training.precision == "bf16",
        "use_cpu": on_cpu,
        "gradient_checkpointing": training.gradient_checkpointing,
        "packing": False,
        "padding_free": training.packing,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "deepspeed": deepspeed_config(job, plan),
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
        "average_tokens_across_devices": True,
        "push_to_hub": False,
    }
