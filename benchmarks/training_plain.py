"""Plain TRL under DeepSpeed, for `training.py`: what a user would write who has no more than their documentation.

Run with the environment of one DeepSpeed rank: ``python training_plain.py JOB.json RESULT.json``. Rows, template,
sizes, precision, ZeRO stage and adapters are those of the job; what it leaves out is left to TRL and DeepSpeed. Told
are seconds, tokens and loss after each step, and the share of padding in the batches of the first rank, which alone
writes a result.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class _Clock(TrainerCallback):
    """Seconds from the beginning to the end of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.monotonic() - self._began)


class _Counting:
    """TRL's own collator, which is asked for each batch once."""

    def __init__(self, collate: Any) -> None:
        self._collate, self.tokens, self.computed = collate, 0, 0

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self._collate(examples)
        self.tokens += int(batch["attention_mask"].sum())
        self.computed += batch["attention_mask"].numel()
        return batch


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train and save as ``job`` says: base, rows (messages), output, template, processes, seed, rate and ``training``,
    a `TrainingConfig` as JSON.
    """
    training, clock, on_cpu = job["training"], _Clock(), not torch.cuda.is_available()
    in_bf16 = training["precision"] == "bf16"
    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    if job["template"]:
        tokenizer.chat_template = Path(job["template"]).read_text()
    rows = [json.loads(line)["messages"] for line in Path(job["rows"]).read_text().splitlines()]
    # Before the model: ZeRO-3 loads it in parts.
    settings = SFTConfig(
        output_dir=job["output"],
        num_train_epochs=job["epochs"],
        per_device_train_batch_size=training["micro_batch_size"],
        gradient_accumulation_steps=training["batch_size"] // (training["micro_batch_size"] * job["processes"]),
        learning_rate=job["learning_rate"],
        max_length=training["max_length"],
        bf16=in_bf16,
        use_cpu=on_cpu,
        # TRL's default is on, which takes a third more time: as ours.
        gradient_checkpointing=training["gradient_checkpointing"],
        train_sampling_strategy=job["sampling"],
        deepspeed=deepspeed_config(training),
        # As ours, to compare losses.
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job["seed"],
        dataloader_pin_memory=not on_cpu,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.bfloat16 if in_bf16 else torch.float32),
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows]),
        processing_class=tokenizer,
        peft_config=_lora_config(training["lora"]),
        callbacks=[clock],
    )
    counting = trainer.data_collator = _Counting(trainer.data_collator)
    trainer.train()
    trainer.save_model(job["output"])
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "is_first": trainer.is_world_process_zero(),
        "seconds": clock.seconds,
        # TRL counts those of all ranks, and no padding.
        "tokens": [int(entry["num_tokens"]) for entry in steps],
        "losses": [entry["loss"] for entry in steps],
        "padding_share": 1 - counting.tokens / counting.computed,
    }


def deepspeed_config(training: dict[str, Any]) -> dict[str, Any]:
    """A file that the handbook of transformers would have a user write."""
    stage = {"stage": training["zero_stage"]}
    if training["zero_stage"] == 3:
        stage["stage3_gather_16bit_weights_on_model_save"] = True
    if training["offload"] != "none":
        stage["offload_optimizer"] = {"device": "cpu"}
    if training["offload"] == "all":
        stage["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": stage,
        # Torch's own, as ours: DeepSpeed's has to be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
    }


def _lora_config(lora: dict[str, Any] | None) -> LoraConfig | None:
    if lora is None:
        return None
    shape = {"r": lora["rank"], "lora_alpha": lora["alpha"], "lora_dropout": lora["dropout"]}
    return LoraConfig(**shape, target_modules="all-linear", task_type="CAUSAL_LM")


if __name__ == "__main__":
    result = train(json.loads(Path(sys.argv[1]).read_text()))
    if result.pop("is_first"):
        Path(sys.argv[2]).write_text(json.dumps(result))
