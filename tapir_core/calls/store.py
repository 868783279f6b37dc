"""The call store: every received answer and every terminal failure, by content, shared by all runs.

An answer counts as received once `put`'s future is done: then it is committed and survives `kill -9`. Retryable
failures are never stored. SQLite or PostgreSQL, by URL; several processes may use one store, and the first to store a
key wins.
"""

import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from tapir_core.calls.spend import Spend
from tapir_core.calls.types import Failure, Outcome, Request, Role
from tapir_core.calls.wire import Reply
from tapir_core.errors import TapirError

__all__ = ["AnswerStore"]

ROWS_PER_COMMIT = 500


@dataclass(frozen=True, slots=True)
class _Put:
    row: dict[str, Any]
    outcome: Outcome
    committed: Future[Outcome]


class AnswerStore:
    """Safe to use from many threads. One thread of its own writes, and commits in groups what has queued meanwhile."""

    def __init__(self, url: str) -> None:
        """Open the store at ``url`` (`sqlite:///path/store.sqlite`, `postgresql://host/database`), made if it lacks.

        Raises:
            ConfigError: the URL is not supported, or the store was written by another version.
            MissingPrerequisite: the database cannot be reached or written.
        """
        from tapir_core.calls import answer_rows, tables

        self._rows = answer_rows
        self._engine = tables.open_engine(url)
        self._inbox: queue.SimpleQueue[_Put | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write_until_closed, name="tapir-store-writer", daemon=True)
        self._writer.start()

    def lookup(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """The stored outcome of each key that is there."""
        return self._rows.read_outcomes(self._engine, keys)

    def known(self, keys: Sequence[str]) -> set[str]:
        """Which of ``keys`` are there; cheaper than `lookup`, for it reads no text."""
        return self._rows.read_known(self._engine, keys)

    def put(self, key: str, request: Request, reply: Reply) -> Future[Outcome]:
        """Store the reply to ``request``.

        Returns:
            Done after the commit. It holds the reply's outcome, or the one that another process stored first.
        """
        outcome = reply.outcome
        assert not (isinstance(outcome, Failure) and outcome.retryable), "a retryable failure is never stored"
        committed: Future[Outcome] = Future()
        if self._closed:
            committed.set_exception(TapirError("the call store is closed; this answer was not kept"))
        else:
            self._inbox.put(_Put(self._rows.make_row(key, request, reply), outcome, committed))
        return committed

    def spend(self, run: str) -> Spend:
        """What ``run`` paid for, over all its starts. An answer counts for the run that asked first."""
        return sum(self.spend_by_role(run).values(), start=Spend())

    def spend_by_role(self, run: str) -> Mapping[Role, Spend]:
        """The same, by what the calls were for."""
        return self._rows.sum_spend(self._engine, run)

    def close(self) -> None:
        """Commit what has queued, then close. Closing twice is the same as once."""
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
            self._writer.join()
            self._engine.dispose()

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_until_closed(self) -> None:
        closing = False
        while not closing:
            batch = self._take_batch()
            closing = None in batch
            self._commit([put for put in batch if put is not None])

    def _take_batch(self) -> list[_Put | None]:
        batch = [self._inbox.get()]
        while len(batch) < ROWS_PER_COMMIT and not self._inbox.empty():
            batch.append(self._inbox.get())
        return batch

    def _commit(self, puts: list[_Put]) -> None:
        if not puts:
            return
        firsts: dict[str, _Put] = {}
        for put in puts:
            firsts.setdefault(put.row["key"], put)
        try:
            stored_before = self._rows.insert_rows(self._engine, [put.row for put in firsts.values()])
        except Exception as error:  # whatever the database raises goes to those who wait for the commit
            failed = TapirError(
                f"the call store cannot be written: {error}. Nothing that was stored is lost; free the disk or start "
                "the database, then the same command goes on."
            )
            failed.__cause__ = error
            for put in puts:
                put.committed.set_exception(failed)
            return
        for put in puts:
            key = put.row["key"]
            put.committed.set_result(stored_before.get(key, firsts[key].outcome))
