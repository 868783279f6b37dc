"""Where Prefect keeps what flow runs and task runs return, for a root on S3: below that root.

Prefect takes a storage that several machines share by the name of a block on its server. Ours holds an address and how
patient the client is, and no key: keys and endpoint come from the environment of whoever writes or reads. Limits: our
flows read no result again, for the manifests say what is done; what waits for a flow run elsewhere reads its result.
"""

from tapir_core.paths import prefect_results
from tapir_core.s3 import Patience, client_settings
from tapir_core.text import digest

__all__ = ["RESULTS_VARIABLE", "results_storage", "save_results_storage"]

RESULTS_VARIABLE = "PREFECT_DEFAULT_RESULT_STORAGE_BLOCK"
"""Prefect's setting that names the storage."""

_KIND = "remote-file-system"


def results_storage(root: str) -> str | None:
    """What `RESULTS_VARIABLE` says for a root; nothing for one on this machine."""
    return f"{_KIND}/{_name(root)}" if _is_elsewhere(root) else None


def save_results_storage(root: str) -> None:
    """Make the block, on the server that Prefect's settings name; nothing happens for a root on this machine."""
    if not _is_elsewhere(root):
        return
    # Not before: Prefect reads its settings when it is imported.
    from prefect.filesystems import RemoteFileSystem

    place = RemoteFileSystem(basepath=f"{root.rstrip('/')}/{prefect_results()}", settings=client_settings(Patience()))
    place.save(_name(root), overwrite=True)


def _name(root: str) -> str:
    return f"tapir-{digest(root.rstrip('/'))[:12]}"


def _is_elsewhere(root: str) -> bool:
    return "://" in root
