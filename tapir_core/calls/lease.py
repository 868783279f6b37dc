"""One driver a run, one trainer a student: a row in the store's database says which process it is.

A process of this machine that is gone loses its lease at once. One of another machine, which cannot be looked at from
here, loses it after 60 s without heartbeat. Times are the database's, so machines need no common clock.
"""

import logging
import os
import secrets
import socket
import threading
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from tapir_core.errors import RunBusy

__all__ = ["LAPSE_SECONDS", "Holder", "Holding", "RunLease", "check_undriven"]

HEARTBEAT_SECONDS = 10.0
LAPSE_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, told apart from every other that had or will have its number."""

    host: str
    boot_id: str
    pid: int
    process_started: float

    @classmethod
    def this_process(cls) -> "Holder":
        """The process that asks."""
        return cls(_host(), _boot_id(), os.getpid(), psutil.Process().create_time())

    def is_here(self) -> bool:
        """True of a process of this machine, whether it still runs or not."""
        return self.host == _host()

    def is_gone(self) -> bool:
        """True when it ran on this machine and does not any more; never true of another machine's process."""
        if not self.is_here():
            return False
        if self.boot_id != _boot_id():
            return True
        try:
            process = psutil.Process(self.pid)
            # Two readings of one process's start differ by rounding only, its successor's by far more.
            same = abs(process.create_time() - self.process_started) < 0.05
            return not same or process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
        except psutil.NoSuchProcess:
            return True


@dataclass(frozen=True, slots=True)
class Holding:
    """A lease that is taken, as any process sees it."""

    token: str
    lives: bool
    """False when the holder is gone from this machine, or silent for too long on another: the next one may take it."""


class RunLease:
    """The right to drive the run ``run_key``; a heartbeat thread keeps it while it is held."""

    def __init__(self, store_url: str, run_key: str, *, token: str | None = None, flow_run: str | None = None) -> None:
        """Prepare.

        Args:
            store_url: Of the database.
            run_key: What is held.
            token: 32 characters that let others know the holder; without it the lease has one of its own.
            flow_run: The UI's address of the flow run that drives, if one does.
        """
        from tapir_core.calls import lease_rows
        from tapir_core.calls import store_tables as tables
        from tapir_core.calls.store_patience import Patience

        self.run_key = run_key
        self.token = token or secrets.token_hex(16)
        self._flow_run = flow_run
        self._rows = lease_rows
        self._engine = tables.open_engine(store_url)
        self._patience = Patience(f"the lease of run {run_key}")
        self._released = threading.Event()
        self._heart: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            RunBusy: another driver holds it.
        """
        mine = {**asdict(Holder.this_process()), "flow_run": self._flow_run}
        holder = self._rows.take(self._engine, self.run_key, self.token, mine, _may_take)
        if holder is not None:
            self._engine.dispose()
            raise RunBusy(_busy_text(self.run_key, holder), flow_run=holder["flow_run"])
        self._heart = threading.Thread(target=self._beat, name="tapir-lease", daemon=True)
        self._heart.start()

    def holds(self) -> bool:
        """Whether the lease is still ours; asked before anything of the run is promoted."""
        held = self._patience.try_until_back(lambda: self._rows.is_held(self._engine, self.run_key, self.token))
        return bool(held)

    def holding(self) -> Holding | None:
        """Who has the lease now, this process or another; nothing when it is free."""
        row = self._rows.read(self._engine, self.run_key)
        return None if row is None else Holding(row["token"], lives=not _may_take(row))

    def hurry(self) -> None:
        """From now on wait only a little for a database that is away: somebody wants to end."""
        self._patience.close()

    def release(self) -> None:
        """Give the lease back, or stop looking at it. Releasing twice is the same as once."""
        self._released.set()
        self.hurry()
        try:
            if self._heart is not None:
                self._heart.join()
                self._heart = None
                self._patience.try_until_back(lambda: self._rows.drop(self._engine, self.run_key, self.token))
        finally:
            self._engine.dispose()

    def __enter__(self) -> "RunLease":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            try:
                self._rows.beat(self._engine, self.run_key, self.token)
            except self._rows.DatabaseError as error:
                # The lease lapses by itself when this lasts; `holds` then says so before anything is promoted.
                logger.warning("no heartbeat for run %s: %s", self.run_key, error)


def check_undriven(connection: Any) -> None:
    """See that no run of the store that ``connection`` goes to is driven now.

    Raises:
        RunBusy: one is, by whom it says.
    """
    from tapir_core.calls import lease_rows

    for row in lease_rows.read_all(connection):
        if not _may_take(row):
            raise RunBusy(_busy_text(row["run_key"], row), flow_run=row["flow_run"])


def _may_take(row: dict[str, Any]) -> bool:
    holder = Holder(row["host"], row["boot_id"], row["pid"], row["process_started"])
    # A process of this machine that lives but is silent is only suspended: taking its run would make two drivers.
    return holder.is_gone() or (not holder.is_here() and row["silent"] >= timedelta(seconds=LAPSE_SECONDS))


def _busy_text(run_key: str, row: dict[str, Any]) -> str:
    since: datetime = row["since"]
    here = row["host"] == _host()
    remedy = f"end it (kill {row['pid']})" if here else f"end it there, or wait {LAPSE_SECONDS:g} s if it is gone"
    host = row["host"].partition("/")[0]
    shown = f", flow run {row['flow_run']}," if row["flow_run"] else ""
    return (
        f"run {run_key} is driven by process {row['pid']} on {host}{shown} since {since:%Y-%m-%d %H:%M:%S} UTC "
        f"(last sign of life {row['silent'].total_seconds():.0f} s ago). Let it finish, or {remedy}; then the same "
        "command goes on."
    )


def _host() -> str:
    """Machine and process-number space: containers of one machine may share a host name, but no process numbers."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{os.readlink(space)}" if space.is_symlink() else socket.gethostname()


def _boot_id() -> str:
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else f"{psutil.boot_time():.0f}"
