"""The root of all runs: whether it can be written, its free disk, and the call store. Makes none of them."""

import secrets
import shutil
import tempfile
from pathlib import Path

from flows.commands.diagnosis.finding import Check, Finding, fault, ok, warning
from tapir_core.calls.store.address import root_store_url
from tapir_core.errors import ConfigError
from tapir_core.paths import probe_file
from tapir_core.storage import Storage

__all__ = ["root_checks"]

_GB = 10**9
_LITTLE_GB = 10
"""The quickstart's environments and its run take about this."""

_TOO_LITTLE_GB = 1


def root_checks(root: str, store_url: str | None) -> list[Check]:
    """Checks of a root; ``store_url`` is a configuration's, if one names a store of its own."""
    storage = Check(
        "storage", lambda: _look_at_storage(root), "correct the root's address, or its credentials in the environment"
    )
    disk = Check("disk", lambda: _look_at_disk(root), "look whether the file system of the root answers")
    store = Check(
        "store",
        lambda: _look_at_store(root, store_url),
        "`tapir store verify` looks for what is damaged; docs/store.md says how to save what is left",
        limit_seconds=30,
    )
    return [storage, *([] if "://" in root else [disk]), store]


def _look_at_storage(root: str) -> Finding:
    if "://" in root:
        return _try_remote(root)
    folder = _nearest(root)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"tapir doctor")
    except OSError as exc:
        return fault(f"{folder} cannot be written ({exc.strerror})", "allow it, or name another root with --root")
    return ok(f"{Path(root).absolute()} can be written" + ("" if folder == Path(root) else "; the first run makes it"))


def _try_remote(root: str) -> Finding:
    storage, probe = Storage(root), probe_file(secrets.token_hex(4))
    content = probe.encode()
    storage.write_bytes(probe, content)
    try:
        same = storage.read_bytes(probe) == content
    finally:
        storage.remove(probe)
    if not same:
        return fault(f"{root} gave back other bytes than were written", "look at the store's versioning and caches")
    return ok(f"{root}: written, read and removed a file")


def _look_at_disk(root: str) -> Finding:
    free = shutil.disk_usage(_nearest(root)).free
    shown = f"{free / _GB:.1f} GB free at {_nearest(root).absolute()}"
    if free < _LITTLE_GB * _GB:
        level = fault if free < _TOO_LITTLE_GB * _GB else warning
        return level(shown, "free some, or name a root on another disk with --root; old runs may go, answers stay")
    return ok(shown)


def _look_at_store(root: str, url: str | None) -> Finding:
    from sqlalchemy import func, select

    from tapir_core.calls.store.tables import answers, meta
    from tapir_core.calls.upkeep import open_existing, shown_url
    from tapir_core.calls.upkeep.opening import is_there, reading

    try:
        url = url or root_store_url(root)
    except ConfigError as error:
        return warning(str(error).partition("; ")[0], "name a configuration, and its store is looked at")
    if not is_there(url):
        return warning(
            f"there is none at {shown_url(url)}", "the first run makes it; or name the right root with --root"
        )
    engine = open_existing(url)
    try:
        with reading(engine) as connection:
            rows = connection.scalar(select(func.count()).select_from(answers))
            version = connection.scalar(select(meta.c.value).where(meta.c.name == "schema_version"))
    finally:
        engine.dispose()
    return ok(f"{shown_url(url)}: {rows:,} answers, schema {version}; `tapir store verify` reads each of them")


def _nearest(root: str) -> Path:
    """The root, or the nearest folder above it that is there."""
    folder = Path(root)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
