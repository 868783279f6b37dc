"""A student as a model folder of its own: the checkpoint's files, verified, with a model card.

The folder says what it is in a record, which is written before anything else and made complete last: what a broken
export left is known for that and goes on, and a folder without a record is never written to.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tapir_core.errors import ConfigError
from tapir_core.paths import EXPORT_RECORD, MODEL_CARD
from tapir_core.run_copy import copy_file
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.storage import Storage

__all__ = ["ExportRecord", "export_student"]


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """What an export is of: the content of `tapir_export.json`."""

    run: str
    run_id: str
    round: int
    """0 is S_0."""
    checkpoint: str
    """Digest of the checkpoint, as the run's manifest has it."""
    files: dict[str, str] = field(default_factory=dict)
    """Name → sha256 of every file of the checkpoint."""
    complete: bool = False


def export_student(
    run: RunFolder, number: int, to: Storage, card: str, *, on_file: Callable[[str], None]
) -> ExportRecord:
    """Write the student after round ``number`` with its model card to ``to``, and verify every file.

    What an earlier export left there is replaced; a file that is the same is not copied again.

    Args:
        run: The run; it may be on S3.
        number: The round; its training must hold.
        to: The folder: empty, absent or an export.
        card: The model card.
        on_file: Told each file's name when it is there.

    Raises:
        ConfigError: the folder holds something else, or cannot be written.
        TapirError: a file did not arrive as the manifest says.
    """
    at = StageAt("train", number)
    manifest = run.manifest(at)
    assert manifest is not None, f"{at} was exported before it was complete"
    before = _check_target(to)
    files = {part.name: part.sha256 for part in manifest.parts}
    record = ExportRecord(run.ref.name, run.record.id, number, manifest.digest, files)
    # Until they are removed, the files of the export before are named as this one's: a removal may break off too.
    _write_record(to, {**asdict(record), "files": before | files})
    for name in before.keys() - files.keys():
        to.remove(name)
    checkpoint, there = Storage(f"{run.storage.url}/{at.folder}"), to.files()
    for name, sha256 in files.items():
        if name not in there or to.sha256(name) != sha256:
            copy_file(checkpoint, to, name, sha256)
        on_file(name)
    to.write_bytes(MODEL_CARD, card.encode())
    whole = {**asdict(record), "complete": True}
    _write_record(to, whole)
    return ExportRecord(**whole)


def _check_target(to: Storage) -> dict[str, str]:
    """The checkpoint's files that an earlier export wrote; none where there was none."""
    if to.is_local and Path(to.root).is_file():
        raise ConfigError(f"{to.url} is a file; name a folder")
    there = to.files()
    if EXPORT_RECORD in there:
        files: dict[str, str] = json.loads(to.read_bytes(EXPORT_RECORD))["files"]
        return files
    if there:
        first = next(iter(there))
        raise ConfigError(
            f"{to.url} holds something else than an export ({first}, {len(there)} files in all), which is left as it "
            "is; name another folder with --to"
        )
    return {}


def _write_record(to: Storage, record: dict[str, object]) -> None:
    to.write_bytes(EXPORT_RECORD, json.dumps(record, indent=1).encode())
