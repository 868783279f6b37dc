"""How the call store is written: one thread commits for all others, and survives a database that is away for a while.

Writes that queue during a commit all go into the next one. While a database is restarted, unreachable or locked,
received answers wait in memory and nothing new is sent, because every attempt is booked first.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from tapir_core.calls.store_tables import reason_of
from tapir_core.errors import TapirError

_ROWS_PER_COMMIT = 500
"""A commit takes no further write once it has so many, so that a long list does not delay others."""
_SECONDS_BETWEEN_COMMITS = 0.004
"""A commit waits so long for more writes."""
_SECONDS_TO_JOIN = 0.002
"""The first write after a pause waits only for its successor: the next attempt, booked behind an answer."""
_LONGEST_SECONDS = 600.0
"""How long a database may be away before reads and writes fail."""
_LONGEST_SECONDS_AT_END = 60.0
"""How long a store that is closing waits for it: an interrupt should end soon, but keep what was paid for."""
_LONGEST_PAUSE_SECONDS = 5.0
_LASTING_SQLSTATES = ("53100", "28", "54")
"""PostgreSQL's codes of a full disk, of refused access and of what is too large for it."""

T = TypeVar("T")
_Queued = tuple[Any, Future[Any], int]
"""A write, its future, and the number of rows that it touches."""
logger = logging.getLogger(__name__)


class GroupWriter:
    """Passes writes to ``commit`` in groups, in their order; it returns their results once they are committed."""

    def __init__(self, name: str, commit: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        self._commit = commit
        self._inbox: queue.SimpleQueue[_Queued | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, write: Any, *, rows: int = 1) -> Future[Any]:
        """Queue a write that touches ``rows`` rows.

        The future is done after its commit, or fails with the error of the database.
        """
        committed: Future[Any] = Future()
        # A caller that waits for it may be interrupted; the write is made all the same.
        committed.set_running_or_notify_cancel()
        # Under the lock, so that no write queues behind the end, where it would never be committed.
        with self._lock:
            if self._closed:
                committed.set_exception(TapirError("the call store is closed; this was not kept"))
            else:
                self._inbox.put((write, committed, rows))
        return committed

    def close(self) -> None:
        """Commit queued writes and end. Closing twice is the same as once."""
        with self._lock:
            self._closed = True
            self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        last_commit, rows = float("-inf"), 0
        group: list[_Queued] = []
        for queued in iter(self._inbox.get, None):
            if not group:
                time.sleep(max(_SECONDS_TO_JOIN, last_commit + _SECONDS_BETWEEN_COMMITS - time.monotonic()))
                last_commit = time.monotonic()
            group.append(queued)
            rows += queued[2]
            if rows >= _ROWS_PER_COMMIT or self._inbox.empty():
                self._finish(group)
                group, rows = [], 0
        if group:
            self._finish(group)

    def _finish(self, group: Sequence[_Queued]) -> None:
        writes, futures, _ = zip(*group, strict=True)
        try:
            results = self._commit(writes)
        except Exception as error:  # any error goes to the callers that wait for the commit
            if len(group) > 1 and not is_away(error):
                for each in group:  # what the database refuses of one takes no other along
                    self._finish([each])
                return
            failed = TapirError(
                f"the call store cannot be written: {reason_of(error)}. Nothing that was stored is lost; free the disk "
                "or start the database, then the same command goes on."
            )
            failed.__cause__ = error
            for committed in futures:
                committed.set_exception(failed)
        else:
            for committed, result in zip(futures, results, strict=True):
                committed.set_result(result)


class Patience:
    """Retries database work while the database is away. For any thread."""

    def __init__(self, what: str, *, longest_seconds: float | None = None) -> None:
        """``what`` names the store in warnings."""
        self._what = what
        self._longest = _LONGEST_SECONDS if longest_seconds is None else longest_seconds
        self._closing = threading.Event()
        self._closing_since = float("inf")

    def try_until_back(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which must be safe to repeat after an interrupted commit.

        Raises:
            Exception: the last error of the database.
        """
        trying = Retrying(
            retry=retry_if_exception(is_away),
            stop=lambda state: (
                time.monotonic() - (self._closing_since if self._closing.is_set() else state.start_time) > self._longest
            ),
            wait=wait_exponential(multiplier=0.1, max=_LONGEST_PAUSE_SECONDS),
            before_sleep=self._tell,
            sleep=self._pause,
            reraise=True,
        )
        try:
            return trying(work)
        finally:
            if trying.statistics.get("attempt_number", 1) > 1:
                waited = time.monotonic() - float(trying.statistics["start_time"])
                logger.warning("%s: the database was away for %.0f s", self._what, waited)

    def close(self) -> None:
        """Wait only a little longer from now on."""
        self._longest = min(self._longest, _LONGEST_SECONDS_AT_END)
        self._closing_since = time.monotonic()
        self._closing.set()

    def _pause(self, seconds: float) -> None:
        if self._closing.is_set():
            time.sleep(seconds)
        else:
            self._closing.wait(seconds)

    def _tell(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            assert state.outcome is not None
            logger.warning(
                "%s: the database is away (%s). Nothing is sent meanwhile; it is tried again for %.0f s",
                self._what,
                reason_of(state.outcome.exception()),
                self._longest,
            )


def is_away(error: BaseException) -> bool:
    """Whether ``error`` says that the database is unreachable or locked, so that a retry may succeed."""
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        # The low byte is the kind. Waiting does not help with a full disk or a read-only file.
        return (getattr(error.orig, "sqlite_errorcode", 0) & 0xFF) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    if str(getattr(error.orig, "sqlstate", None) or "").startswith(_LASTING_SQLSTATES):
        return False
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
