"""What can be seen of the processes that a test starts while it runs: where they listen, which arguments they have."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import ClassVar, Generic, Self, TypeVar

import psutil

__all__ = ["ArgumentWatch", "ListenWatch", "listening", "open_to_others"]

Place = tuple[str, str, int]
"""Name of the process with its first words, address, port."""
Seen = TypeVar("Seen")


class _Watch(ABC, Generic[Seen]):
    """Collects what it looks for in this process's descendants while the ``with`` block runs."""

    pause_seconds: ClassVar[float]

    def __init__(self) -> None:
        self.seen: set[Seen] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=type(self).__name__)

    @abstractmethod
    def look(self, process: psutil.Process) -> Iterable[Seen]:
        """What there is to see of a process now."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._ended.wait(self.pause_seconds):
            for process in this.children(recursive=True):
                try:
                    self.seen.update(self.look(process))
                except psutil.Error:
                    continue  # It ended meanwhile.


class ArgumentWatch(_Watch[tuple[str, ...]]):
    """Collects with which arguments they were started."""

    pause_seconds = 0.05

    def look(self, process: psutil.Process) -> Iterable[tuple[str, ...]]:
        return [tuple(process.cmdline())]


class ListenWatch(_Watch[Place]):
    """Collects where they listen."""

    pause_seconds = 0.3

    def look(self, process: psutil.Process) -> Iterable[Place]:
        return _places(process)


def listening(processes: Iterable[psutil.Process]) -> set[Place]:
    """Sockets on which these processes take connections now."""
    found: set[Place] = set()
    for process in processes:
        try:
            found.update(_places(process))
        except psutil.Error:
            continue  # It ended meanwhile.
    return found


def open_to_others(places: set[Place]) -> list[Place]:
    """Those that another machine can reach."""
    return sorted(place for place in places if place[1] not in ("127.0.0.1", "::1", "::ffff:127.0.0.1"))


def _places(process: psutil.Process) -> list[Place]:
    words = " ".join(process.cmdline()[:6])
    sockets = process.net_connections(kind="inet")
    return [(words, each.laddr.ip, each.laddr.port) for each in sockets if each.status == psutil.CONN_LISTEN]
