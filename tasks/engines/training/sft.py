"""The student that is trained, and TRL's `SFTTrainer` as we use it.

The model is loaded from the base and written as a whole checkpoint. The trainer gets our settings, planned batches,
saves that are whole or absent, and what follows a step: all ranks must agree on saving and stopping, since both are
collective, and one small reduction a step does it.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from tasks.engines.machine import WITHOUT_AMX, computes_in_bf16
from tasks.engines.training.data import IGNORED, BatchPlan
from tasks.engines.training.job import Attempt, SaveRecord, TrainingJob, TrainingProgress, publish_save

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


class Watch(TrainerCallback):
    """Asks for a save every ``save_minutes`` and after SIGTERM, then also for the end; rank 0 writes progress."""

    def __init__(self, job: TrainingJob, tokens_by_step: list[int], *, earlier_seconds: float) -> None:
        """``earlier_seconds`` are those of the steps before this start."""
        self.stopped = False
        """SIGTERM came and the training ended early."""
        self._job = job
        self._tokens_by_step = tokens_by_step
        self._earlier_seconds = earlier_seconds
        self._began = self._saved_at = time.monotonic()
        self._told_to_stop = False
        self._first_step = 0
        self._file: TextIO | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training steps, over all starts of the attempt."""
        return self._earlier_seconds + time.monotonic() - self._began

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The optimizer is ready and, on a resume, restored: from now on there is something to save."""
        signal.signal(signal.SIGTERM, self._remember)
        self._first_step = state.global_step
        self._began = self._saved_at = time.monotonic()
        if state.is_world_process_zero:
            self._file = Attempt(self._job.output).progress_file.open("a", buffering=1)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Agree on what is due."""
        due = time.monotonic() - self._saved_at >= self._job.training.save_minutes * 60
        wishes = torch.tensor([due or self._told_to_stop, self._told_to_stop], dtype=torch.int, device=args.device)
        torch.distributed.all_reduce(wishes, op=torch.distributed.ReduceOp.MAX)
        save, self.stopped = wishes.bool().tolist()
        if state.global_step < state.max_steps:  # after the last step the finished student is written instead
            control.should_save = save
        control.should_training_stop |= self.stopped
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A save is written: the next one is due ``save_minutes`` from now."""
        self._saved_at = time.monotonic()
        if state.is_world_process_zero:
            print(f"saved after step {state.global_step}", flush=True)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """One line of progress a step."""
        if self._file is None or not logs or "loss" not in logs:
            return
        done_here = sum(self._tokens_by_step[self._first_step : state.global_step])
        rate = done_here / max(time.monotonic() - self._began, 1e-9)
        left = sum(self._tokens_by_step[state.global_step :])
        progress = TrainingProgress(
            step=state.global_step,
            steps=state.max_steps,
            loss=logs["loss"],
            tokens=sum(self._tokens_by_step[: state.global_step]),
            tokens_per_second=rate,
            eta_seconds=left / rate,
        )
        self._file.write(json.dumps(asdict(progress)) + "\n")

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._told_to_stop = True


class PlannedTrainer(SFTTrainer):
    """Trains what a `BatchPlan` says, in its order. The last row of the data set is a filler without labels."""

    def __init__(self, *, plan: BatchPlan, watch: Watch, resumed_from_steps: Sequence[int], **settings: Any) -> None:
        super().__init__(callbacks=[watch], **settings)
        self._plan = plan
        self.watch = watch
        self.resumed_from_steps = resumed_from_steps

    def get_train_dataloader(self) -> Any:
        """This rank's micro-batches; a rank without an example computes the filler, whose loss is zero."""
        filler = [len(self.train_dataset) - 1]
        cells = [cell or filler for cell in self._plan.of_rank(self.args.process_index)]
        return DataLoader(
            self.train_dataset,
            batch_sampler=cells,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's fused loss on an accelerator; on a CPU the logits of no position before the first trained one.

        TRL scores every position when Triton is missing, and computes each twice: a quarter of a small model's time.
        """
        if self.args.device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")[:, 1:]
        trained = labels != IGNORED
        first = int(trained.any(dim=0).int().argmax())
        width = labels.shape[1] - first
        logits = model(**inputs, use_cache=False, logits_to_keep=width + 1).logits[:, :-1]
        kept = trained[:, first:]
        total = torch.nn.functional.cross_entropy(logits[kept].float(), labels[:, first:][kept], reduction="sum")
        # DeepSpeed averages over ranks; `num_items_in_batch` counts the trained tokens of all of them.
        return total / num_items_in_batch * self.accelerator.num_processes

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing: DeepSpeed's part of a save holds the weights already; `write_student` ends a training."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Nothing: a save is no model that is shown to anyone."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        os.makedirs(folder, exist_ok=True)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            record = SaveRecord(
                self.state.global_step, self.watch.seconds, self.args.world_size, self.resumed_from_steps
            )
            publish_save(folder, record)
        self.accelerator.wait_for_everyone()


def settle_precision(job: TrainingJob) -> TrainingJob:
    """The job with ``precision = "auto"`` decided for this rank's device."""
    if job.training.precision != "auto":
        return job
    if torch.cuda.is_available():
        in_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        in_bf16 = computes_in_bf16(broken_amx=WITHOUT_AMX.items() <= os.environ.items())
    precision = "bf16" if in_bf16 else "fp32"
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


def _dtype(job: TrainingJob) -> torch.dtype:
    return torch.bfloat16 if job.training.precision == "bf16" else torch.float32
