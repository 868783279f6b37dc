"""The key of a replica: driver and worker both derive it from the fleet's secret, so that none of them sends it.

The secret is ``TAPIR_FLEET_SECRET``, which every machine of a fleet must have alike, or else a file of this machine
that is made when it is first needed. It stands in no argument, log, database or environment of an engine.
"""

import contextlib
import hmac
import os
import secrets
from pathlib import Path

from tapir_core.errors import MissingPrerequisite
from tapir_core.paths import FLEET_SECRET
from tapir_core.storage import on_this_machine

__all__ = ["SECRET_VARIABLE", "replica_key"]

SECRET_VARIABLE = "TAPIR_FLEET_SECRET"


def replica_key(root: str, run_id: str, replica: str) -> str:
    """The key with which the run asks its replica: HMAC-SHA256 of both ids, in hex.

    Raises:
        MissingPrerequisite: the secret's file cannot be read or is empty.
    """
    return hmac.new(_secret(root).encode(), f"{run_id} {replica}".encode(), "sha256").hexdigest()


def _secret(root: str) -> str:
    given = os.environ.get(SECRET_VARIABLE, "").strip()
    if given:
        return given
    file = on_this_machine(root).local(FLEET_SECRET)
    try:
        if not file.exists():
            _make(file)
        kept = file.read_text().strip()
    except OSError as exc:
        raise MissingPrerequisite(f"{file}: {exc.strerror}; make it readable, or export {SECRET_VARIABLE}=…") from exc
    if not kept:
        raise MissingPrerequisite(f"{file} is empty; remove it, or export {SECRET_VARIABLE}=…")
    return kept


def _make(file: Path) -> None:
    """Write the secret whole before it gets its name; of two processes the first one's stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unnamed = file.with_name(f"{file.name}-{secrets.token_hex(8)}")
    with os.fdopen(os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as content:
        content.write(secrets.token_hex(32))
        content.flush()
        os.fsync(content.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(unnamed, file)
    unnamed.unlink()
