"""What one fine-tune is told and what it leaves behind: the job, its attempt folder, its progress, its summary.

Read by the driver and by every rank; imports no torch.
"""

import json
import os
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from tapir_core.config import TrainingConfig
from tapir_core.paths import TRAINING_SUMMARY
from tapir_core.reporting.formats import duration
from tapir_core.text import digest

__all__ = ["Attempt", "TrainingCount", "TrainingJob", "TrainingProgress", "TrainingSummary", "write_durably"]


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One fine-tune of ``base`` on ``mixture``; ``output`` is its attempt folder."""

    base: Path
    """Folder of the checkpoint to start from."""
    mixture: tuple[Path, ...]
    """Parquet files with a column ``messages``, a list of {role, content}."""
    output: Path
    training: TrainingConfig
    epochs: float
    learning_rate: float
    seed: int
    log_path: Path
    chat_template: Path | None = None
    """Jinja file that replaces the base's chat template."""

    def to_json(self) -> dict[str, Any]:
        """The job as JSON, with absolute paths."""
        return {
            "base": str(self.base.absolute()),
            "mixture": [str(path.absolute()) for path in self.mixture],
            "output": str(self.output.absolute()),
            "training": self.training.model_dump(mode="json"),
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "log_path": str(self.log_path.absolute()),
            "chat_template": str(self.chat_template.absolute()) if self.chat_template else None,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The job that ``to_json`` wrote."""
        return cls(
            base=Path(value["base"]),
            mixture=tuple(map(Path, value["mixture"])),
            output=Path(value["output"]),
            training=TrainingConfig.model_validate(value["training"]),
            epochs=value["epochs"],
            learning_rate=value["learning_rate"],
            seed=value["seed"],
            log_path=Path(value["log_path"]),
            chat_template=Path(value["chat_template"]) if value["chat_template"] else None,
        )

    @property
    def identity(self) -> str:
        """Digest of all that can change the weights; a checkpoint of another identity is never resumed from."""
        value = self.to_json()
        for name in ("output", "log_path"):
            del value[name]
        for name in ("runs_on", "save_minutes", "grace_seconds", "gradient_checkpointing"):
            del value["training"][name]
        return digest(value)


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a training stands after an optimizer step."""

    step: int
    steps: int
    loss: float
    tokens: int
    """Tokens seen so far, prompts included, padding not."""
    tokens_per_second: float
    eta_seconds: float

    def in_words(self) -> str:
        """For a line that changes as it goes on."""
        step = f"step {self.step}/{self.steps}, loss {self.loss:.3f}"
        return f"{step}, {self.tokens_per_second:.0f} tokens/s, {duration(self.eta_seconds)} left"


@dataclass(frozen=True, slots=True)
class TrainingCount:
    """How much a training is; known before its first step."""

    steps: int
    """Optimizer steps."""
    batch_size: int
    """Examples of a step; the last one may have fewer."""
    epochs: float
    examples: int
    """Different examples of an epoch."""
    left_out: int
    """Examples longer than ``max_length``."""
    trained_tokens: int
    """Tokens with a loss: answers and their closing tokens, over all epochs."""
    total_tokens: int
    """Tokens seen, prompts included and padding not, over all epochs."""


@dataclass(frozen=True, slots=True)
class TrainingSummary(TrainingCount):
    """What a finished training reports; the content of ``training.json``."""

    padding_share: float
    seconds: float
    """Seconds of training steps, all starts of this attempt together; start-up and saving not counted."""
    tokens_per_second: float
    final_loss: float
    loss_curve: list[dict[str, float]]
    """One entry a step: step, loss, learning_rate, grad_norm."""
    world_size: int
    device: str
    precision: str
    zero_stage: int
    resumed_from_steps: list[int]
    versions: dict[str, str]

    def in_words(self) -> str:
        """What came of it."""
        return f"{self.steps} steps, final loss {self.final_loss:.3f}, {self.tokens_per_second:.0f} tokens/s"

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The summary that ``training.json`` holds; other entries of the file are ignored."""
        return cls(**{field.name: value[field.name] for field in fields(cls)})


class Attempt:
    """The attempt folder: the one place that knows its file names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job_file = folder / "job.json"
        self.progress_file = folder / "progress.jsonl"
        self.checkpoint = folder / "checkpoint"
        """The finished student; complete as soon as it exists."""
        self.unfinished_checkpoint = folder / "checkpoint.unfinished"
        self.saves = folder / "saves"
        """Periodic, resumable checkpoints."""

    @property
    def summary_file(self) -> Path:
        """``training.json`` of the finished student."""
        return self.checkpoint / TRAINING_SUMMARY

    def open(self, job: TrainingJob) -> None:
        """Make the folder this job's: what another job left in it goes."""
        if self.job_file.exists():
            earlier = TrainingJob.from_json(json.loads(self.job_file.read_text()))
            if earlier.identity != job.identity:
                shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(self.job_file, json.dumps(job.to_json(), indent=1))

    def summary(self) -> TrainingSummary | None:
        """The finished training, if there is one."""
        if not self.summary_file.exists():
            return None
        return TrainingSummary.from_json(json.loads(self.summary_file.read_text()))


def write_durably(path: Path, text: str) -> None:
    """Write a file so that it is either whole or absent, also after a kill or a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
