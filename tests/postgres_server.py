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

__all__ = ["PostgresServer", "needs_postgres", "run_postgres"]


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


class PostgresServer:
    """One server with a folder and a port of its own; it may be stopped and started again."""

    def __init__(self) -> None:
        self._programs, user = _find_programs(), _server_user()
        assert self._programs is not None
        assert user is not None
        # Not pytest's folder: that one is closed to the server's user.
        self._folder = Path(tempfile.mkdtemp(prefix="tapir-postgres-"))
        shutil.chown(self._folder, user)
        self._as_user = {"user": user} if os.getuid() == 0 else {}
        port = free_port()
        self.url = f"postgresql://tapir@127.0.0.1:{port}/postgres"
        self._options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
        self._run("initdb", "-A", "trust", "-U", "tapir", "--no-sync")
        self.start()

    def start(self) -> None:
        self._run("pg_ctl", "-w", "-l", self._folder / "log", "-o", self._options, "start")

    def stop(self) -> None:
        """Ends at once, with every connection."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        shutil.rmtree(self._folder)

    def _run(self, program: str, *words: object) -> None:
        assert self._programs is not None
        command = [str(each) for each in (self._programs / program, "-D", self._folder / "data", *words)]
        # A server that is started keeps what it is given to write to: a pipe would never end.
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **self._as_user)


@contextmanager
def run_postgres() -> Iterator[str]:
    """The URL of the database `postgres` of a new server, which ends with the block."""
    server = PostgresServer()
    try:
        yield server.url
    finally:
        server.stop()
        server.remove()
