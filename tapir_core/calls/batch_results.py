"""Takes the files of a batch that has ended apart into the store, line by line.

What is no proper outcome comes back with its reason, so that it is asked again: rows that failed or expired, and rows
that are in neither file.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from tempfile import SpooledTemporaryFile

from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.batch_client import BatchClient, BatchStatus
from tapir_core.calls.batch_errors import why_unreached
from tapir_core.calls.batch_file import read_line
from tapir_core.calls.batch_rows import OpenBatch
from tapir_core.calls.budget import settlement
from tapir_core.calls.types import Endpoint, Failure
from tapir_core.calls.wire import Reply

__all__ = ["BatchResults"]

LINES_PER_COMMIT = 500
BYTES_IN_MEMORY = 16 * 2**20
"""A longer result waits on disk."""


class BatchResults:
    """The results of one batch."""

    def __init__(
        self,
        store: AnswerStore,
        endpoint: Endpoint,
        batch: OpenBatch,
        status: BatchStatus,
        *,
        bring: Callable[[str, Reply], None],
    ) -> None:
        """Prepare; ``bring`` is told each outcome that is committed."""
        self._store = store
        self._endpoint = endpoint
        self._status = status
        self._unreached = why_unreached(batch, status, endpoint)
        self._bring = bring
        self._owed = dict(batch.rows)
        self._attempts = batch.attempts
        self._failed: dict[str, Reply] = {}

    async def take_apart(self, client: BatchClient) -> dict[str, Reply]:
        """Store every outcome; gives the rows that have none, with what they failed of."""
        for file_id in self._status.file_ids:
            with SpooledTemporaryFile(max_size=BYTES_IN_MEMORY) as file:
                await client.download(file_id, file)
                while lines := list(islice(file, LINES_PER_COMMIT)):
                    await self._settle(lines)
        for key in list(self._owed):
            self._fail(key, self._unreached)
        return self._failed

    async def _settle(self, lines: Iterable[bytes]) -> None:
        committing = []
        for line in lines:
            key, reply = read_line(line, self._endpoint) or ("", Reply(Failure("server", "no line")))
            if key not in self._owed:
                continue
            if isinstance(reply.outcome, Failure) and reply.outcome.retryable:
                stopped = self._status.status == "cancelled" and not reply.attempts
                self._fail(key, self._unreached if stopped else reply)
            else:
                request = self._owed.pop(key)
                self._store.settle(settlement(self._attempts[key], reply))
                committing.append((key, reply, asyncio.wrap_future(self._store.put(key, request, reply))))
        for key, reply, committed in committing:
            # Shielded: an interrupt must not take back what is on its way into the store.
            self._bring(key, replace(reply, outcome=await asyncio.shield(committed)))

    def _fail(self, key: str, reply: Reply) -> None:
        """Settle what the row has cost, so that its next batch reserves anew."""
        del self._owed[key]
        self._store.settle(settlement(self._attempts[key], reply))
        self._store.release(key)
        self._failed[key] = reply
