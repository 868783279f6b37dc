"""Periodic, resumable checkpoints of one attempt: published by rename, so a torn one is never resumed from.

Grain: one folder a save, ``step-00000120``, with its record ``complete.json`` written last. Imports no torch.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.engines.training.job import write_durably

__all__ = ["Save", "SaveRecord", "clear_unfinished", "newest_save", "publish_save", "sync_folder"]

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
    resumed_from_steps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Save:
    """A complete save."""

    folder: Path
    record: SaveRecord


def publish_save(written: Path, record: SaveRecord) -> Path:
    """Make the folder ``written`` a complete save and drop all but the newest two."""
    sync_folder(written)
    write_durably(written / _RECORD, json.dumps(asdict(record)))
    place = written.parent / f"{_PREFIX}{record.step:08d}"
    if place.exists():
        _drop(place)
    written.rename(place)
    _sync(written.parent)
    for older in _complete(written.parent)[:-_KEPT]:
        _drop(older.folder)
    return place


def newest_save(saves: Path, *, world_size: int) -> Save | None:
    """The newest complete save that ``world_size`` ranks can load."""
    usable = [save for save in _complete(saves) if save.record.world_size == world_size]
    return usable[-1] if usable else None


def clear_unfinished(saves: Path) -> None:
    """Delete what a kill left half written."""
    complete = {save.folder for save in _complete(saves)}
    for folder in saves.iterdir() if saves.exists() else ():
        if folder not in complete:
            shutil.rmtree(folder)


def sync_folder(folder: Path) -> None:
    """Bring every file below ``folder`` to the disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _complete(saves: Path) -> list[Save]:
    found = []
    for folder in sorted(saves.glob(f"{_PREFIX}*")):
        if (folder / _RECORD).exists():
            value = json.loads((folder / _RECORD).read_text())
            value["resumed_from_steps"] = tuple(value["resumed_from_steps"])
            found.append(Save(folder, SaveRecord(**value)))
    return found


def _drop(folder: Path) -> None:
    (folder / _RECORD).unlink()  # first, so that a kill in between leaves no save that looks complete
    shutil.rmtree(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
