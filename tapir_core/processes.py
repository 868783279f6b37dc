"""Processes that hold something in a database: how they are identified, send heartbeats, and are found to be gone.

A process of this machine that is gone loses what it holds at once. A process of another machine, which cannot be
checked from here, loses it after 60 s without heartbeat. Times are the database's, so machines need no common clock. A
process is identified by when it started after the boot, which does not change when the clock is set.
"""

import contextvars
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from tapir_core.errors import RunBusy

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
LAPSE_SECONDS = 60.0
LAPSE = timedelta(seconds=LAPSE_SECONDS)

_BY_THE_CLOCK = 1e9
"""Seconds of a start that a development version wrote: no start after a boot is as large, it is 31 years."""
_SAME_START = 0.05
"""Two readings of one process's start differ by rounding only, that of the next process by far more."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, distinguished from all others that had or will have its number."""

    host: str
    boot_id: str
    pid: int
    process_started: float
    """Seconds after the boot."""

    @classmethod
    def this_process(cls) -> "Holder":
        """The current process."""
        return cls.of_process(os.getpid())

    @classmethod
    def of_process(cls, pid: int) -> "Holder":
        """The process of this machine that has the number now."""
        return cls(_host(), _boot_id(), pid, read_start(pid) or 0.0)

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> "Holder":
        """The process named by a row."""
        return cls(row["host"], row["boot_id"], row["pid"], row["process_started"])

    def is_here(self) -> bool:
        """Whether it is a process of this machine, running or not."""
        return self.host == _host()

    def lives(self) -> bool | None:
        """Whether it still runs; None if that is unknown: on another machine, or as a development version noted it."""
        if not self.is_here() or self.process_started > _BY_THE_CLOCK:
            return None
        started = read_start(self.pid)
        if started is None and not Path("/proc", str(self.pid)).exists() and psutil.pid_exists(self.pid):
            return None  # other users' processes are hidden, as on shared machines
        return (
            started is not None
            and _boot_id() in ("", self.boot_id)
            and abs(started - self.process_started) < _SAME_START
        )

    def is_gone(self) -> bool:
        """True if it ran on this machine and no longer does; never true for another machine's process."""
        return self.lives() is False


def read_start(pid: int, proc: Path = Path("/proc")) -> float | None:
    """When the process of this machine with that number started, as in `Holder`; None if there is none."""
    try:
        # The name, in parentheses, may itself contain spaces and parentheses.
        fields = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZXx" else int(fields[19]) / os.sysconf("SC_CLK_TCK")


class Heart(threading.Thread):
    """Calls ``beat`` every 10 s in a thread of its own, from `begin` to `stop`."""

    def __init__(self, what: str, beat: Callable[[], object]) -> None:
        """``what`` is held while it beats."""
        super().__init__(name=f"heart of {what}", daemon=True)
        self._what, self._beat = what, beat
        self._beginning, self._ended = threading.Lock(), threading.Event()

    def begin(self) -> None:
        """Start to beat; beginning twice, from any thread, is the same as once."""
        with self._beginning:
            if self.ident is None:
                self.start()

    def run(self) -> None:
        """Beat until the end."""
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                self._beat()
            except Exception as error:  # if this lasts the lease lapses, and its holder learns it then
                logger.warning("no heartbeat for %s: %s", self._what, getattr(error, "orig", error))

    def stop(self) -> None:
        """Stop beating; when this returns no beat is in progress."""
        self._ended.set()
        self.join()


@contextmanager
def beside(
    name: str, work: Callable[[threading.Event], None], patience: float | None = None
) -> Iterator[threading.Event]:
    """A thread, in the context of the block, that does ``work`` beside it; the event says that one of them has ended.

    The block waits for the thread, at most ``patience`` seconds.
    """
    ended = threading.Event()
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work, ended), name=name, daemon=True)
    thread.start()
    try:
        yield ended
    finally:
        ended.set()
        thread.join(patience)


def is_free(row: Mapping[Any, Any]) -> bool:
    """Whether the lease in ``row``, with its `silent` time, may be taken from its holder."""
    lives = Holder.of(row).lives()
    # A living but silent process of this machine is only suspended: taking its run would make two drivers.
    return lives is False or (lives is None and row["silent"] >= LAPSE)


def busy(row: Mapping[Any, Any]) -> RunBusy:
    """The error that names the holder of the lease in ``row``."""
    host, here = row["host"].partition("/")[0], Holder.of(row).is_here()
    remedy = f"end it (kill {row['pid']})" if here else f"end it there, or wait {LAPSE_SECONDS:g} s if it is gone"
    shown = f", flow run {row['flow_run']}," if row["flow_run"] else ""
    return RunBusy(
        f"run {row['run_key']} is driven by process {row['pid']} on {host}{shown} since "
        f"{row['since']:%Y-%m-%d %H:%M:%S} UTC (last sign of life {row['silent'].total_seconds():.0f} s ago). Let it "
        f"finish, or {remedy}; then the same command goes on.",
        flow_run=row["flow_run"],
    )


def _host() -> str:
    """Machine and process-number space: containers of one machine may share a host name, but not process numbers."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{os.readlink(space)}" if space.is_symlink() else socket.gethostname()


def _boot_id() -> str:
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else ""
