"""Finished stages of one run taken over by another that would make the very same: what arms of a comparison share.

A stage is taken when its key differs by the run's id alone: same settings, ingredients, stage version and inputs, down
to their content. It is sealed anew under the key of the run that takes it, so neither run needs the other afterwards.
On a local root files are hard links where the disk has them (nothing ever writes into a finished file), else copies.
Answers need none of this: the store shares them by content. This is for trained checkpoints and for whole stages.
"""

import os
from pathlib import Path

from tapir_core.data.dataset import DatasetRef, Manifest
from tapir_core.errors import TapirError
from tapir_core.paths import MANIFEST, is_part
from tapir_core.run_copy import copy_file
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt, inner_stages, plan, with_steps
from tapir_core.storage import Storage

__all__ = ["take_over"]


def take_over(source: RunFolder, target: RunFolder) -> list[StageAt]:
    """Give ``target`` every stage that ``source`` has made just as ``target`` would make it; returns them in order.

    What holds in ``target`` already stays as it is. Each manifest is written last and counts for its run: nothing was
    asked and no time was spent, all answers came from elsewhere. The caller holds the lease of ``target``, and nobody
    changes ``source`` meanwhile.

    Raises:
        TapirError: a file of ``source`` is not what its manifest says.
    """
    seen: dict[StageAt, DatasetRef | None] = {}
    config = target.config
    planned = (each for at in plan(config) for each in (*inner_stages(config, at), *with_steps(config, at)))
    return [at for at in planned if _take(source, target, at, seen)]


def _take(source: RunFolder, target: RunFolder, at: StageAt, seen: dict[StageAt, DatasetRef | None]) -> bool:
    """Take one stage, if it may be taken; ``seen`` is what holds of the stages before it, and of this one then."""
    if target.holds(at, seen):
        return False
    manifest = source.manifest(at)
    if manifest is None or manifest.key != target.key(at, seen, made_by=source.record.id):
        return False
    target.storage.remove(at.folder)
    listed = {part.name: part.sha256 for part in manifest.parts}
    for name in listed.keys() | _beside(source.storage, at):
        path = f"{at.folder}/{name}"
        _bring(source.storage, target.storage, path, listed.get(name) or source.storage.sha256(path))
    counts, missing = _counts(manifest), manifest.accepted_missing
    seen[at] = target.seal(at, list(manifest.parts), accepted_missing=missing, counts=counts, seen=seen)
    return True


def _beside(storage: Storage, at: StageAt) -> set[str]:
    """Files of a stage that its manifest does not list, such as a checkpoint's `training.json`."""
    return {name for name in storage.names(at.folder) if name != MANIFEST and not is_part(name) and name[0] != "."}


def _bring(source: Storage, target: Storage, path: str, sha256: str) -> None:
    if not (source.is_local and target.is_local and _link(source.local(path), target.local(path))):
        copy_file(source, target, path, sha256)
    elif target.sha256(path) != sha256:
        target.remove(path)
        raise TapirError(
            f"{source.url}/{path} is not what its manifest says (sha256): it is damaged; remove its stage's folder, "
            "and its run makes it anew"
        )


def _link(file: Path, place: Path) -> bool:
    """Whether the file is in its second place now: the disk may have no hard links, or be another one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, place)
    except OSError:
        return False
    return True


def _counts(manifest: Manifest) -> dict[str, float]:
    """What the stage counted, with its calls as answers that were there already."""
    counts = {name: 0.0 if name == "seconds" else count for name, count in manifest.counts.items()}
    if "calls" in counts:
        counts |= {"calls": 0.0, "stored": counts.get("stored", 0.0) + counts["calls"]}
    return counts
