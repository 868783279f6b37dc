"""Plain TRL under DeepSpeed, for `training.py`: what a user would write who has no more than their documentation.

Run with the environment of one DeepSpeed rank: ``python training_plain.py JOB.json RESULT.json``. Rows, template,
sizes, rate, precision and ZeRO stage are those of the job; what it leaves out is left to TRL and DeepSpeed. A row's
tokens are those that TRL makes of it. Seconds are those of the steps, without loading, tokenising and saving.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class _Clock(TrainerCallback):
    began = ended = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.monotonic()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.monotonic()


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train and save as ``job`` says: base, rows (messages), output, template, seed, rate and sizes."""
    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    tokenizer.chat_template = Path(job["template"]).read_text()
    in_bf16, on_cpu, clock = job["precision"] == "bf16", not torch.cuda.is_available(), _Clock()
    rows = [json.loads(line)["messages"] for line in Path(job["rows"]).read_text().splitlines()]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.bfloat16 if in_bf16 else torch.float32),
        args=SFTConfig(
            output_dir=job["output"],
            num_train_epochs=job["epochs"],
            per_device_train_batch_size=job["micro_batch_size"],
            gradient_accumulation_steps=job["batch_size"] // job["micro_batch_size"],
            learning_rate=job["learning_rate"],
            lr_scheduler_type=job["scheduler"],
            warmup_steps=job["warmup_ratio"],  # below 1 a share of all steps
            max_length=job["max_length"],
            bf16=in_bf16,
            use_cpu=on_cpu,
            # As ours: off where it fits.
            gradient_checkpointing=False,
            deepspeed={
                "train_micro_batch_size_per_gpu": "auto",
                "gradient_accumulation_steps": "auto",
                "gradient_clipping": "auto",
                "bf16": {"enabled": "auto"},
                "zero_optimization": {"stage": job["zero_stage"]},
                # Torch's own: DeepSpeed's has to be compiled.
                "zero_force_ds_cpu_optimizer": False,
                "zero_allow_untested_optimizer": True,
            },
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=job["seed"],
            dataloader_pin_memory=not on_cpu,
        ),
        train_dataset=Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows]),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.train()
    trainer.save_model(job["output"])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "seconds": clock.ended - clock.began,
        "tokens": sum(map(len, trainer.train_dataset["input_ids"])) * job["epochs"],
        "steps": trainer.state.global_step,
        "losses": losses,
    }


if __name__ == "__main__":
    result = train(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(result))
