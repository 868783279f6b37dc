"""What happens after each optimizer step: progress is written, a save is due, or the training is told to stop.

All ranks must agree on saving and stopping, since both are collective: one small reduction a step does it.
"""

import json
import signal
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.engines.training.job import TrainingProgress

__all__ = ["StepClock", "Watch"]


class StepClock:
    """Seconds of training steps, over all starts of an attempt."""

    def __init__(self, earlier_seconds: float) -> None:
        self._earlier = earlier_seconds
        self._started = time.monotonic()

    def start(self) -> None:
        """The first step begins."""
        self._started = time.monotonic()

    @property
    def here(self) -> float:
        """Seconds since this start's first step."""
        return time.monotonic() - self._started

    @property
    def seconds(self) -> float:
        """Seconds of all starts together."""
        return self._earlier + self.here


class Watch(TrainerCallback):
    """Asks for a save every ``save_minutes`` and after SIGTERM, then also for the end; rank 0 writes progress."""

    def __init__(
        self, *, clock: StepClock, progress_file: Path, tokens_by_step: list[int], save_minutes: float, world_size: int
    ) -> None:
        self.stopped = False
        """SIGTERM came and the training ended early."""
        self._clock = clock
        self._path = progress_file
        self._tokens_by_step = tokens_by_step
        self._save_seconds = save_minutes * 60
        self._saved_at = time.monotonic()
        self._world_size = world_size
        self._told_to_stop = False
        self._first_step = 0
        self._file: TextIO | None = None
        signal.signal(signal.SIGTERM, self._remember)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The optimizer is ready and, on a resume, restored."""
        self._first_step = state.global_step
        self._saved_at = time.monotonic()
        self._clock.start()
        if state.is_world_process_zero:
            self._file = self._path.open("a", buffering=1)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Agree on what is due."""
        due = time.monotonic() - self._saved_at >= self._save_seconds
        save, self.stopped = self._agree(due or self._told_to_stop, self._told_to_stop, args.device)
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
        rate = done_here / max(self._clock.here, 1e-9)
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

    def _agree(self, save: bool, stop: bool, device: torch.device) -> tuple[bool, bool]:
        if self._world_size == 1:
            return save, stop
        wishes = torch.tensor([int(save), int(stop)], device=device)
        torch.distributed.all_reduce(wishes, op=torch.distributed.ReduceOp.MAX)
        return bool(wishes[0]), bool(wishes[1])
