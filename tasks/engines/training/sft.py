"""TRL's `SFTTrainer` on planned batches, with saves that are whole or absent and a loss that is fast on a CPU."""

import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from trl import SFTTrainer

from tasks.engines.training.batches import BatchPlan
from tasks.engines.training.callbacks import StepClock
from tasks.engines.training.data import IGNORED
from tasks.engines.training.saves import SaveRecord, publish_save

__all__ = ["PlannedTrainer"]


class PlannedTrainer(SFTTrainer):
    """Trains what a `BatchPlan` says, in its order. The last row of the data set is a filler without labels."""

    def __init__(
        self, *, plan: BatchPlan, clock: StepClock, resumed_from_steps: tuple[int, ...], **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._plan = plan
        self.clock = clock
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
        """Nothing: DeepSpeed's part of a save holds the weights already; `student.write_student` ends a training."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Nothing: a save is no model that is shown to anyone."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        os.makedirs(folder, exist_ok=True)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            record = SaveRecord(
                self.state.global_step, self.clock.seconds, self.args.world_size, self.resumed_from_steps
            )
            publish_save(folder, record)
        self.accelerator.wait_for_everyone()
