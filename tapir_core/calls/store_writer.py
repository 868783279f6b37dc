"""How the call store is written: one thread commits for many, and goes on when the database was away for a while.

What has queued while a commit runs goes into the next one, all together. A database may be restarted, unreachable, or
locked by somebody else: what was received waits in memory meanwhile, and nothing new is sent, for every attempt is
written down first.
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
"""A commit takes no further write once it has so many, so that the first claims of a long list hold nobody back."""
_SECONDS_BETWEEN_COMMITS = 0.004
"""A commit waits so long for others to join it."""
_SECONDS_TO_JOIN = 0.002
"""The first write after a pause waits only for what follows it at once: the next attempt, booked behind an answer."""
LONGEST_SECONDS = 600.0
"""How long a database may be away before what needs it fails."""
_LONGEST_SECONDS_AT_END = 60.0
"""How long it is still waited for by who is closing: an interrupt should end soon, but with what was paid for."""
_LONGEST_PAUSE_SECONDS = 5.0
_LASTING_SQLSTATES = ("53100", "28")
"""Of PostgreSQL: a full disk, and who is not let in."""

T = TypeVar("T")
_Queued = tuple[Any, Future[Any], int]
"""A write, its future, and the rows that it touches."""
logger = logging.getLogger(__name__)


class GroupWriter:
    """``commit`` gets some writes in the order in which they came, and gives the result of each once they are safe."""

    def __init__(self, name: str, commit: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        self._commit = commit
        self._inbox: queue.SimpleQueue[_Queued | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, write: Any, *, rows: int = 1) -> Future[Any]:
        """Queue a write that touches ``rows`` rows.

        The future is done after its commit, or fails with what the database raised.
        """
        committed: Future[Any] = Future()
        # Whoever waits for it may be interrupted; that takes nothing back.
        committed.set_running_or_notify_cancel()
        # Under the lock, so that nothing queues behind the end, where nobody would commit it.
        with self._lock:
            if self._closed:
                committed.set_exception(TapirError("the call store is closed; this was not kept"))
            else:
                self._inbox.put((write, committed, rows))
        return committed

    def close(self) -> None:
        """Commit what has queued and end. Closing twice is the same as once."""
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
        except Exception as error:  # whatever the database raises goes to those who wait for the commit
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
    """Tries what needs the database again while it is away. For any thread."""

    def __init__(self, what: str, *, longest_seconds: float | None = None) -> None:
        """``what`` names the store and what waits for it, in what is said to the user."""
        self._what = what
        self._longest = LONGEST_SECONDS if longest_seconds is None else longest_seconds
        self._closing = threading.Event()
        self._closing_since = float("inf")

    def try_until_back(self, work: Callable[[], T]) -> T:
        """What ``work`` gives; it must do no harm when it is repeated after a commit whose end nobody knows.

        Raises:
            Exception: what the database raised at last.
        """
        trying = Retrying(
            retry=retry_if_exception(is_away),
            stop=self._is_over,
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
        """From now on wait only a little longer."""
        self._longest = min(self._longest, _LONGEST_SECONDS_AT_END)
        self._closing_since = time.monotonic()
        self._closing.set()

    def _is_over(self, state: RetryCallState) -> bool:
        since = self._closing_since if self._closing.is_set() else state.start_time
        return time.monotonic() - since > self._longest

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
    """Whether ``error`` says that the database cannot be reached or is locked, so that the same may work later."""
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        # The low byte is the kind. Waiting helps neither a full disk nor a file that must not be written.
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        return code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    if str(getattr(error.orig, "sqlstate", None) or "").startswith(_LASTING_SQLSTATES):
        return False
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
