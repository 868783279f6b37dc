"""Which addresses the processes that a test starts listen on, while it runs."""

import threading
from types import TracebackType
from typing import Self

import psutil

__all__ = ["ListenWatch", "listening", "open_to_others"]

Place = tuple[str, str, int]
"""Name of the process with its first words, address, port."""


def listening(processes: list[psutil.Process]) -> set[Place]:
    """Sockets on which these processes take connections now."""
    found: set[Place] = set()
    for process in processes:
        try:
            words = " ".join(process.cmdline()[:6])
            for each in process.net_connections(kind="inet"):
                if each.status == psutil.CONN_LISTEN:
                    found.add((words, each.laddr.ip, each.laddr.port))
        except psutil.Error:
            continue  # It ended meanwhile.
    return found


def open_to_others(places: set[Place]) -> list[Place]:
    """Those that another machine can reach."""
    return sorted(place for place in places if place[1] not in ("127.0.0.1", "::1", "::ffff:127.0.0.1"))


class ListenWatch:
    """Collects where this process's descendants listen while the ``with`` block runs."""

    def __init__(self) -> None:
        self.seen: set[Place] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="listen-watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        this = psutil.Process()
        while not self._ended.wait(0.3):
            self.seen |= listening(this.children(recursive=True))
