"""A PostgreSQL server on 127.0.0.1 that a test starts itself, where the programs are installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.processes import free_port

__all__ = ["needs_postgres", "run_postgres"]


def _find_programs() -> Path | None:
    """The folder of `initdb` and `postgres`, which not every installation has on the path."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders and (folders[-1] / "postgres").exists() else None


def _server_user() -> str | None:
    """Who runs the server: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid()).pw_name
    return "postgres" if any(each.pw_name == "postgres" for each in pwd.getpwall()) else None


needs_postgres = pytest.mark.skipif(
    _find_programs() is None or _server_user() is None, reason="needs PostgreSQL's programs and a user who is not root"
)


@contextmanager
def run_postgres() -> Iterator[str]:
    """The URL of the database `postgres` of a new server, which ends with the block."""
    programs, user = _find_programs(), _server_user()
    assert programs is not None
    assert user is not None
    # Not pytest's folder: that one is closed to the server's user.
    folder = Path(tempfile.mkdtemp(prefix="tapir-postgres-"))
    shutil.chown(folder, user)
    as_user = {"user": user} if os.getuid() == 0 else {}
    initdb = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "tapir", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **as_user)
    port = free_port()
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
    control = [programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options]
    subprocess.run([*control, "start"], check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_user)
    try:
        yield f"postgresql://tapir@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=folder, **as_user)
        shutil.rmtree(folder)
