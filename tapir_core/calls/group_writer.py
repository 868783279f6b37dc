"""One thread that writes for many: what has queued while a commit runs goes into the next one, all together."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tapir_core.errors import TapirError

__all__ = ["GroupWriter"]

ROWS_PER_COMMIT = 500
"""A commit takes no further write once it has so many, so that the first claims of a long list hold nobody back."""
SECONDS_BETWEEN_COMMITS = 0.004
"""A commit waits so long for others to join it."""
SECONDS_TO_JOIN = 0.002
"""The first write after a pause waits only for what follows it at once: the next attempt, booked behind an answer."""

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class _Queued(Generic[W]):
    write: W
    committed: Future[Any] = field(default_factory=Future)


class GroupWriter(Generic[W]):
    """``commit`` gets some writes in the order in which they came, and gives the result of each once they are safe.

    ``rows_of`` says how many rows a write touches.
    """

    def __init__(
        self, name: str, commit: Callable[[Sequence[W]], Sequence[Any]], rows_of: Callable[[W], int] = lambda _: 1
    ) -> None:
        self._commit = commit
        self._rows_of = rows_of
        self._inbox: queue.SimpleQueue[_Queued[W] | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._last_commit = float("-inf")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, write: W) -> Future[Any]:
        """Queue a write; the future is done after its commit, or fails with what the database raised."""
        queued = _Queued(write)
        # Under the lock, so that nothing queues behind the end, where nobody would commit it.
        with self._lock:
            if not self._closed:
                self._inbox.put(queued)
                return queued.committed
        queued.committed.set_exception(TapirError("the call store is closed; this was not kept"))
        return queued.committed

    def close(self) -> None:
        """Commit what has queued and end. Closing twice is the same as once."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        closing = False
        while not closing:
            batch = self._take_batch()
            closing = None in batch
            self._finish([queued for queued in batch if queued is not None])

    def _take_batch(self) -> list[_Queued[W] | None]:
        batch = [self._inbox.get()]
        time.sleep(max(SECONDS_TO_JOIN, self._last_commit + SECONDS_BETWEEN_COMMITS - time.monotonic()))
        self._last_commit, rows = time.monotonic(), 0
        while (last := batch[-1]) is not None:
            rows += self._rows_of(last.write)
            if rows >= ROWS_PER_COMMIT or self._inbox.empty():
                break
            batch.append(self._inbox.get())
        return batch

    def _finish(self, batch: list[_Queued[W]]) -> None:
        if not batch:
            return
        try:
            results = self._commit([queued.write for queued in batch])
        except Exception as error:  # whatever the database raises goes to those who wait for the commit
            failed = TapirError(
                f"the call store cannot be written: {error}. Nothing that was stored is lost; free the disk or start "
                "the database, then the same command goes on."
            )
            failed.__cause__ = error
            for queued in batch:
                queued.committed.set_exception(failed)
            return
        for queued, result in zip(batch, results, strict=True):
            queued.committed.set_result(result)
