"""Files that engines need as folders of this machine, for runs whose root is elsewhere.

With a local root an engine works in the run's own folder, and nothing here does anything. With a remote one it works in
the run's `workplace`: what it makes is uploaded before the stage is sealed, and what it reads is downloaded once and
compared with the manifest. Limit: an unfinished training is on the machine that began it; another one begins anew.
"""

import logging
from pathlib import Path

from tapir_core.errors import TapirError
from tapir_core.paths import LOGS, manifest_file
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.storage import file_sha256

__all__ = ["fetch_stage", "publish_logs", "publish_stage"]

logger = logging.getLogger(__name__)


def fetch_stage(run: RunFolder, at: StageAt) -> Path:
    """Folder of this machine with the files that the stage's manifest lists, and no others where it is a copy.

    Raises:
        TapirError: a file is not what the manifest says.
    """
    folder = run.workplace.local(at.folder)
    if run.storage.is_local:
        return folder
    manifest = run.manifest(at)
    assert manifest is not None, f"{at} was fetched before it was complete"
    listed = {part.name: part.sha256 for part in manifest.parts}
    for name in set(run.workplace.names(at.folder)) - listed.keys():
        run.workplace.remove(f"{at.folder}/{name}")
    for name, sha256 in listed.items():
        _fetch(run, f"{at.folder}/{name}", folder / name, sha256)
    return folder


def publish_stage(run: RunFolder, at: StageAt) -> None:
    """Upload what an engine made of a stage, so that it can be sealed; what an earlier making left goes first."""
    if run.storage.is_local:
        return
    run.storage.remove(manifest_file(at.folder))
    run.storage.remove(at.folder)
    for path in run.workplace.files(at.folder):
        run.storage.upload(run.workplace.local(path), path)


def publish_logs(run: RunFolder) -> None:
    """Upload the logs that children wrote on this machine. A run does not fail for them."""
    if run.storage.is_local:
        return
    try:
        for path in run.workplace.files(LOGS):
            run.storage.upload(run.workplace.local(path), path)
    except TapirError as error:
        logger.warning("logs of run %s stay in %s: %s", run.ref.name, run.workplace.url, error)


def _fetch(run: RunFolder, path: str, file: Path, sha256: str) -> None:
    if file.exists() and file_sha256(file) == sha256:
        return
    run.storage.download(path, file)
    if file_sha256(file) != sha256:
        file.unlink()
        raise TapirError(
            f"{run.storage.url}/{path} is not what its manifest says (sha256): it is damaged; remove its folder there, "
            "and the same command makes it anew"
        )
