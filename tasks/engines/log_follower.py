"""Logs of children reach the flow run at work: what `log_lines.py` picks of a file, told while it is written.

A flow run says that it is at work with `told_to`; the innermost one is told. Outside of a flow run nobody is. Each
message names the file, which holds everything; no message holds a key. Limits: logs are appended to, never replaced.
"""

import contextvars
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.engines.endpoints import hide_keys
from tasks.engines.log_lines import LogReader, Record

__all__ = ["follow_log", "tell", "told_to"]

Tell = Callable[[int, str], object]
"""Takes a level of `logging` and a message; for any thread."""

_LOOK_SECONDS = 0.5

_ASSIGNED = re.compile(r"(?i)(bearer |(?:api[_-]?key|password|secret)\w*['\"]?\s*[=:]\s*['\"\[]*)[^\s'\",;)\]]+")

_listeners: list[Tell] = []
"""Of the flow runs at work in this process, the innermost last."""
_followers: "list[_Follower]" = []


@contextmanager
def told_to(listener: Tell) -> Iterator[None]:
    """For the length of the block ``listener`` is told; at its end it has heard all that was written in it."""
    _listeners.append(listener)
    try:
        yield
    finally:
        for follower in list(_followers):
            follower.look(ended=True)
        _listeners.remove(listener)


def tell(level: int, message: str) -> None:
    """Tell the flow run at work."""
    for listener in _listeners[-1:]:
        listener(level, message)


@contextmanager
def follow_log(name: str, path: Path) -> Iterator[None]:
    """For the length of the block tell what people should see of what is appended to a log, if it is there or not.

    Args:
        name: Whose log it is, in the words of a reader.
        path: The log.
    """
    follower = _Follower(name, path)
    _followers.append(follower)
    # The thread belongs to the run that starts it, also for Prefect.
    thread = threading.Thread(
        target=contextvars.copy_context().run, args=(follower.go_on,), name=f"follow {path.name}", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        follower.stopped.set()
        thread.join()
        follower.look(ended=True)
        _followers.remove(follower)


class _Follower:
    """One log, from its end on."""

    def __init__(self, name: str, path: Path) -> None:
        self.stopped = threading.Event()
        self._name = name
        self._path = path
        self._reader = LogReader()
        self._offset = path.stat().st_size if path.exists() else 0
        self._looking = threading.Lock()

    def go_on(self) -> None:
        """Look again and again, until stopped."""
        while not self.stopped.wait(_LOOK_SECONDS):
            self.look()

    def look(self, *, ended: bool = False) -> None:
        """Tell what is new; when nothing is, or all has ``ended``, also the error whose last line has come."""
        with self._looking:
            lines = self._new_lines()
            records = self._reader.read(lines, time.monotonic())
            if ended or not lines:
                records += self._reader.flush()
            for record in records:
                self._tell(record)

    def _new_lines(self) -> list[str]:
        """The whole lines that were appended since the last look."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            written = file.read()
        whole = written[: written.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode("utf-8", "replace").splitlines()

    def _tell(self, record: Record) -> None:
        text = _ASSIGNED.sub(r"\1[key]", hide_keys(record.text))
        separator = "\n" if "\n" in text else " "
        tell(record.level, f"{self._name} ({self._path.absolute()}):{separator}{text}")
