"""How one of the stand-in's batches lives: by the clock, and row by row.

It is validating, in progress while its rows are answered evenly, finalizing, and then completed or expired; or it ends
as cancelled or failed. Limits: it takes no notice of the completion window, of queue limits or of
``output_expires_after``.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from tapir_core.standin.batch_rows import ENDPOINT, BatchRow, read_input, reply_line, to_jsonl, unreached_line
from tapir_core.standin.behaviour import Behaviour
from tapir_core.standin.chat import ChatReply, reply_to_json
from tapir_core.standin.faults import FaultKind, draw_unit
from tapir_core.standin.files import FileStore
from tapir_core.standin.ledger import Ledger

__all__ = ["WINDOW", "Batch", "BatchRunner"]

WINDOW = "24h"
"""The one completion window, as at OpenAI."""

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
_WINDOW_SECONDS = 24 * 3600
_EDGE_SHARE = 0.1
"""Share of a batch's time that validating takes, and finalizing."""
_FEWEST_SLICES = 20
_LARGEST_SLICE = 100
"""Rows that are answered in one go; other requests come in between."""


@dataclass(slots=True, eq=False)
class Batch:
    """One batch and how far it is."""

    id: str
    input_file_id: str
    metadata: dict[str, str] | None
    created_at: int = field(default_factory=lambda: int(time.time()))
    """Unix time in seconds, as all moments here."""
    status: Status = "validating"
    moments: dict[str, int] = field(default_factory=dict)
    """`in_progress_at`, `completed_at`, … as far as they came."""
    problems: list[dict[str, Any]] = field(default_factory=list)
    """Why the input file was not taken."""
    total: int = 0
    answered: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the output file."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the error file."""
    output_file_id: str | None = None
    error_file_id: str | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once somebody wants it to stop."""

    def enter(self, status: Status) -> None:
        """Take up a status, now."""
        self.status = status
        self.moments[f"{status}_at"] = int(time.time())

    def cancel(self) -> None:
        """Stop before the next rows; those answered so far are kept."""
        self.enter("cancelling")
        self.cancelled.set()

    def to_json(self) -> dict[str, Any]:
        """OpenAI's batch object."""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "errors": {"object": "list", "data": self.problems} if self.problems else None,
            "input_file_id": self.input_file_id,
            "completion_window": WINDOW,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "expires_at": self.created_at + _WINDOW_SECONDS,
            **self.moments,
            "request_counts": {"total": self.total, "completed": len(self.answered), "failed": len(self.failed)},
            "metadata": self.metadata,
        }


class BatchRunner:
    """Leads batches from creation to end."""

    def __init__(self, behaviour: Behaviour, files: FileStore, ledger: Ledger) -> None:
        self._behaviour = behaviour
        self._files = files
        self._ledger = ledger
        self._seen: Counter[str] = Counter()

    async def run(self, batch: Batch, content: bytes) -> None:
        """The whole life of a batch over an input file's content."""
        seconds = self._behaviour.batches.seconds
        await _pause(batch, seconds * _EDGE_SHARE)
        # In a thread, as writing is: a file of 200 MB would hold up everybody else for seconds.
        source = await asyncio.to_thread(read_input, content, self._behaviour.batches)
        if source.problems:
            batch.problems = source.problems
            batch.enter("failed")
            return
        batch.total = len(source.rows)
        await self._answer(batch, source.rows, seconds * (1 - 2 * _EDGE_SHARE))
        await self._finish(batch, seconds * _EDGE_SHARE)

    async def _answer(self, batch: Batch, rows: list[BatchRow], seconds: float) -> None:
        if not batch.cancelled.is_set():
            batch.enter("in_progress")
        for numbers in _slices(len(rows)):
            await _pause(batch, seconds * len(numbers) / len(rows))
            for number in numbers:
                row, row_id = rows[number], f"{batch.id}_row_{number + 1}"
                if batch.cancelled.is_set():
                    said = "The batch was cancelled before this request was executed."
                    batch.failed.append(unreached_line(row_id, row, code="batch_cancelled", message=said))
                else:
                    self._answer_row(batch, row, row_id)

    def _answer_row(self, batch: Batch, row: BatchRow, row_id: str) -> None:
        """Answer a row, or let it fail or expire by its share; the same body may do better in a later batch."""
        rules, content = self._behaviour.batches, row.content()
        digest = sha256(content).hexdigest()
        point = draw_unit(self._behaviour.faults.seed, "batch", digest, self._seen[digest])
        self._seen[digest] += 1
        if point < rules.expire_share:
            said = "This request was not executed before the completion window ended."
            batch.failed.append(unreached_line(row_id, row, code="batch_expired", message=said))
            return
        fails = point < rules.expire_share + rules.fail_share
        reply = _FAILED_REPLY if fails else reply_to_json(row.body, self._behaviour)
        fault: FaultKind | None = "500" if fails else None
        self._ledger.record(content, reply.outcome, reply.status, reply.kind, fault=fault, batch=batch.id)
        lines = batch.answered if reply.status == 200 else batch.failed
        lines.append(reply_line(row_id, row, reply))

    async def _finish(self, batch: Batch, seconds: float) -> None:
        if not batch.cancelled.is_set():
            batch.enter("finalizing")
            await asyncio.sleep(seconds)
        batch.output_file_id = await self._write(batch, batch.answered, "output")
        batch.error_file_id = await self._write(batch, batch.failed, "error")
        expired = any(line["error"] and line["error"]["code"] == "batch_expired" for line in batch.failed)
        batch.enter("cancelled" if batch.cancelled.is_set() else "expired" if expired else "completed")

    async def _write(self, batch: Batch, lines: list[dict[str, Any]], name: str) -> str | None:
        """The id of a file of these rows, in an order that is not the input's; none without rows."""
        if not lines:
            return None
        mixed = random.Random(len(lines)).sample(lines, len(lines))
        content = await asyncio.to_thread(to_jsonl, mixed)
        return self._files.add(content, name=f"{batch.id}_{name}.jsonl", purpose="batch_output").id


async def _pause(batch: Batch, seconds: float) -> None:
    """Wait, but not longer than until the batch is cancelled."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await batch.cancelled.wait()


def _slices(rows: int) -> Iterator[range]:
    size = max(1, min(rows // _FEWEST_SLICES, _LARGEST_SLICE))
    return (range(begin, min(begin + size, rows)) for begin in range(0, rows, size))


_FAILED_REPLY = ChatReply(
    500, {"error": {"message": "The server had an error, by order.", "type": "server_error"}}, "failed", None
)
