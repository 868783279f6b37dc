"""What one fine-tune is told and what it leaves behind: job, attempt folder, saves, progress, summary, errors.

Read by the driver and by every rank; imports no torch. A save is a periodic, resumable checkpoint of one attempt,
published by rename, so that a torn one is never resumed from: one folder a save, ``step-00000120``, with its record
``complete.json`` written last.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from tapir_core import errors
from tapir_core.config import TrainingConfig
from tapir_core.errors import TapirError
from tapir_core.paths import TRAINING_SUMMARY
from tapir_core.storage import Storage
from tapir_core.summary.formats import duration
from tapir_core.text import digest


def print_child_error(error: TapirError) -> None:
    """Print it in the child."""
    print(f"tapir error {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def child_error(text: str, *, more: str = "") -> TapirError | None:
    """The last error that a child printed, if any, with ``more`` after its words."""
    told = re.findall(r"^tapir error (\w+): (.*)$", text, flags=re.MULTILINE)
    if not told:
        return None
    kind, message = told[-1]
    error: TapirError = getattr(errors, kind)(f"{message}{more}")
    return error


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
        free = {"output", "log_path"}
        free_of_training = {"runs_on", "save_minutes", "grace_seconds", "gradient_checkpointing"}
        value = self.to_json() | {"training": self.training.model_dump(mode="json", exclude=free_of_training)}
        return digest({name: each for name, each in value.items() if name not in free})

    @property
    def memory_remedy(self) -> str:
        """What to change when memory does not suffice."""
        training = self.training
        ways = [
            (True, f"lower training.micro_batch_size (now {training.micro_batch_size})"),
            (True, f"lower training.max_length (now {training.max_length})"),
            (not training.gradient_checkpointing, "set training.gradient_checkpointing = true"),
            (training.lora is None, "set [training.lora]"),
            (
                training.zero_stage < 3,
                f"raise training.zero_stage (now {training.zero_stage}) and give more processes",
            ),
        ]
        return ", or ".join(way for helps, way in ways if helps)


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
        Storage(self.folder).write_bytes(self.job_file.name, json.dumps(job.to_json(), indent=1).encode())

    def summary(self) -> TrainingSummary | None:
        """The finished training, if there is one."""
        if not self.summary_file.exists():
            return None
        return TrainingSummary.from_json(json.loads(self.summary_file.read_text()))


_RECORD = "complete.json"
_PREFIX = "step-"
_KEPT = 2


@dataclass(frozen=True, slots=True)
class SaveRecord:
    """What must be known before a save is loaded."""

    step: int
    seconds: float
    """Seconds of training steps that led here."""
    world_size: int
    """DeepSpeed's partitions can only be loaded by as many ranks as wrote them."""
    resumed_from_steps: Sequence[int]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{_PREFIX}{self.step:08d}"


def publish_save(written: Path, record: SaveRecord) -> Path:
    """Make the folder ``written`` a complete save and drop all but the newest two."""
    sync_folder(written)
    Storage(written).write_bytes(_RECORD, json.dumps(asdict(record)).encode())
    place = written.parent / record.name
    if place.exists():
        _drop(place)
    written.rename(place)
    _sync(written.parent)
    for older in _complete(written.parent)[:-_KEPT]:
        _drop(written.parent / older.name)
    return place


def newest_save(saves: Path, *, world_size: int) -> SaveRecord | None:
    """The newest complete save that ``world_size`` ranks can load."""
    usable = [save for save in _complete(saves) if save.world_size == world_size]
    return usable[-1] if usable else None


def clear_unfinished(saves: Path) -> None:
    """Delete what a kill left half written."""
    complete = {save.name for save in _complete(saves)}
    for folder in saves.iterdir() if saves.exists() else ():
        if folder.name not in complete:
            shutil.rmtree(folder)


def sync_folder(folder: Path) -> None:
    """Bring every file below ``folder`` to the disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _complete(saves: Path) -> list[SaveRecord]:
    records = sorted(saves.glob(f"{_PREFIX}*/{_RECORD}"))
    return [SaveRecord(**json.loads(record.read_text())) for record in records]


def _drop(folder: Path) -> None:
    (folder / _RECORD).unlink()  # first, so that a kill in between leaves no save that looks complete
    shutil.rmtree(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
