"""Going on when the store's database is away for a while: restarted, unreachable, or locked by somebody else.

What was received waits in memory meanwhile, and nothing new is sent, for every attempt is written down first.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

__all__ = ["Patience", "is_away"]

LONGEST_SECONDS = 600.0
"""How long a database may be away before what needs it fails."""
LONGEST_SECONDS_AT_END = 60.0
"""How long it is still waited for by who is closing: an interrupt should end soon, but with what was paid for."""
LONGEST_PAUSE_SECONDS = 5.0
LASTING_SQLSTATES = ("53100", "28")
"""Of PostgreSQL: a full disk, and who is not let in."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


def is_away(error: BaseException) -> bool:
    """Whether ``error`` says that the database cannot be reached or is locked, so that the same may work later."""
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        # The low byte is the kind. Waiting helps neither a full disk nor a file that must not be written.
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        return code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    if str(getattr(error.orig, "sqlstate", None) or "").startswith(LASTING_SQLSTATES):
        return False
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)


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
            wait=wait_exponential(multiplier=0.1, max=LONGEST_PAUSE_SECONDS),
            before_sleep=self._tell,
            sleep=self._pause,
            reraise=True,
        )
        try:
            return trying(work)
        finally:
            if trying.statistics.get("attempt_number", 1) > 1:
                logger.warning("%s: the database was away for %.0f s", self._what, _waited(trying))

    def close(self) -> None:
        """From now on wait only a little longer."""
        self._closing_since = time.monotonic()
        self._closing.set()

    def _is_over(self, state: RetryCallState) -> bool:
        if self._closing.is_set():
            return time.monotonic() - self._closing_since > LONGEST_SECONDS_AT_END
        return (state.seconds_since_start or 0.0) > self._longest

    def _pause(self, seconds: float) -> None:
        if self._closing.is_set():
            time.sleep(seconds)
        else:
            self._closing.wait(seconds)

    def _tell(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            assert state.outcome is not None
            reason = str(getattr(state.outcome.exception(), "orig", "")).strip()
            longest = LONGEST_SECONDS_AT_END if self._closing.is_set() else self._longest
            text = "%s: the database is away (%s). Nothing is sent meanwhile; it is tried again for %.0f s"
            logger.warning(text, self._what, reason, longest)


def _waited(trying: Retrying) -> float:
    return time.monotonic() - float(trying.statistics["start_time"])
