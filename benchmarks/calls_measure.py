"""Processor time and memory of one process with all its descendants, from outside, for `calls.py`.

The processes are those of one session, so that a child whose parent has ended still counts. What a child used that was
waited for is in its parent's sums; a child that nobody waited for counts as long as it lives.
"""

import os
import threading
from dataclasses import dataclass

import psutil

SAMPLE_SECONDS = 0.2
MIB = 2**20


@dataclass(frozen=True)
class Usage:
    """What a session used between two moments."""

    cpu_seconds: float
    """User and system."""
    memory_mib: float
    """Highest sum of proportional set sizes, over that of the first moment."""
    peak_mib: float
    """The same in whole."""


class Watch:
    """Watches a session from its construction until `stop`."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._cpu = self._cpu_seconds()
        self._first = self._peak = self._memory()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> Usage:
        """What was used; all processes should still live."""
        cpu_seconds = self._cpu_seconds() - self._cpu
        self._stopped.set()
        self._thread.join()
        self._peak = max(self._peak, self._memory())
        return Usage(cpu_seconds, (self._peak - self._first) / MIB, self._peak / MIB)

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, self._memory())

    def _cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:4]) for process in self._processes())

    def _memory(self) -> int:
        total = 0
        for process in self._processes():
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended meanwhile, or is a zombie
                continue
        return total

    def _processes(self) -> list[psutil.Process]:
        found = []
        for pid in psutil.pids():
            try:
                if os.getsid(pid) == self._session:
                    found.append(psutil.Process(pid))
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found
