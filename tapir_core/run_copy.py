"""A run copied from one root to another, local or remote, so that what arrives is the run or none.

Every file is read back and compared by its sha256. Manifests come after what they list and `run.json` last, so that a
copy that broke off is no run; copying again goes on where it stopped. Prefect's results and the working folders of
unfinished trainings stay behind: a run needs neither.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tapir_core.data.dataset import read_manifest
from tapir_core.errors import ConfigError, TapirError
from tapir_core.paths import MANIFEST, RUN_RECORD, goes_with_run
from tapir_core.storage import Storage

__all__ = ["Copied", "copy_file", "copy_run", "remove_run"]


@dataclass(frozen=True, slots=True)
class Copied:
    """What was done."""

    files: int
    bytes: int
    already_there: int
    """Files of the run that an earlier copy brought; they are not in ``files``."""


def copy_run(source: Storage, target: Storage, *, on_file: Callable[[str, int, int], None]) -> Copied:
    """Copy the run folder ``source`` to ``target`` and verify it.

    Args:
        source: The run's folder. Nobody may write to it meanwhile.
        target: Its new folder: empty, an unfinished copy of this run, or a whole one.
        on_file: Told each file when it is there, with its bytes and the bytes of all files.

    Raises:
        ConfigError: there is no run, or the target holds something else.
        TapirError: a file did not arrive as it should be.
    """
    sizes = _in_order(source)
    there = {path: size for path, size in target.files().items() if goes_with_run(path)}
    finished = _check_target(source, target, sizes, there)
    listed, total = _listed(source, sizes), sum(sizes.values())
    copied = []
    for path, size in sizes.items():
        sha256 = listed.get(path) or source.sha256(path)
        if there.get(path) != size or target.sha256(path) != sha256:
            if finished:
                raise ConfigError(
                    f"{target.url} holds this run already and {path} differs there: one of the two went on, or is "
                    "damaged; remove the one that is not wanted"
                )
            copy_file(source, target, path, sha256)
            copied.append(path)
        on_file(path, size, total)
    return Copied(len(copied), sum(sizes[path] for path in copied), len(sizes) - len(copied))


def copy_file(source: Storage, target: Storage, path: str, sha256: str) -> None:
    """Copy one file, which has the same path in both, and read it back.

    Raises:
        TapirError: it did not arrive as its sha256 says it should be; nothing of it stays.
    """
    if target.is_local:
        source.download(path, target.local(path))
    elif source.is_local:
        target.upload(source.local(path), path)
    else:
        with tempfile.TemporaryDirectory() as folder:
            between = Path(folder, "file")
            source.download(path, between)
            target.upload(between, path)
    if target.sha256(path) != sha256:
        target.remove(path)
        raise TapirError(
            f"{path} did not arrive at {target.url} as its sha256 says it should be: it is damaged in {source.url}, or "
            "was on the way. Try again; if it stays so, remove its stage's folder there, and the run makes it anew"
        )


def remove_run(storage: Storage) -> None:
    """Remove a run folder; `run.json` goes first, so that what a broken removal leaves is no run."""
    storage.remove(RUN_RECORD)
    storage.remove("")


def _in_order(source: Storage) -> dict[str, int]:
    """Path → bytes of what goes with the run: files, then the manifests that list them, `run.json` last."""
    found = {path: size for path, size in source.files().items() if goes_with_run(path)}
    if RUN_RECORD not in found:
        raise ConfigError(f"there is no run in {source.url}; see `tapir status`")
    return {path: found[path] for path in sorted(found, key=_rank)}


def _rank(path: str) -> tuple[bool, bool, str]:
    return path == RUN_RECORD, PurePosixPath(path).name == MANIFEST, path


def _check_target(source: Storage, target: Storage, sizes: dict[str, int], there: dict[str, int]) -> bool:
    """Whether the target is this very run, whole; an error where it can be neither that nor a part of it."""
    if RUN_RECORD in there:
        if _run_id(target) != _run_id(source):
            raise ConfigError(f"{target.url} holds another run of this name; name another root")
        return True
    strange = sorted(there.keys() - sizes.keys())
    if strange:
        raise ConfigError(
            f"{target.url} holds what the run does not have ({strange[0]}, {len(strange)} in all): a copy that was "
            "begun before the run went on, or something else; remove that folder, or name another root"
        )
    return False


def _listed(source: Storage, sizes: dict[str, int]) -> dict[str, str]:
    """Path → sha256 of every file that a manifest lists."""
    folders = [str(PurePosixPath(path).parent) for path in sizes if PurePosixPath(path).name == MANIFEST]
    manifests = [(folder, manifest) for folder in folders if (manifest := read_manifest(source, folder)) is not None]
    return {f"{folder}/{part.name}": part.sha256 for folder, manifest in manifests for part in manifest.parts}


def _run_id(run: Storage) -> str:
    return str(json.loads(run.read_bytes(RUN_RECORD))["id"])
