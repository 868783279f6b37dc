"""Where Prefect keeps what flow runs and task runs return, for a root on S3: below that root.

Prefect takes a storage that several machines share by the name of a block on its server. Ours holds an address and how
patient the client is, and no key: keys and endpoint come from the environment of whoever writes or reads. Limits: our
flows read no result again, for the manifests say what is done; what waits for a flow run elsewhere reads its result.
"""

from tapir_core.paths import ROOT_VARIABLE, prefect_results
from tapir_core.s3 import Patience, client_settings
from tapir_core.text import digest

__all__ = ["results_setting", "save_results_storage", "worker_settings"]


def results_setting(root: str) -> dict[str, str]:
    """Prefect's setting that names the storage; none for a root on this machine."""
    return {"PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": f"remote-file-system/{_name(root)}"} if _is_elsewhere(root) else {}


def worker_settings(root: str) -> str:
    """What stands before the command of a worker that a user starts for a root."""
    return " ".join(f"{name}={value}" for name, value in {ROOT_VARIABLE: root, **results_setting(root)}.items())


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
