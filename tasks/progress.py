"""What a run is doing now: stages, shards, rows, missing, and who is asked no more. Thread-safe, knows no display.

The terminal shows it; by it `tasks.asking` gives a lost stage up.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Protocol

from tapir_core.stages import StageAt

__all__ = ["CountRow", "Progress", "StageProgress"]

_SHARD: ContextVar[int | None] = ContextVar("shard", default=None)
"""Index of the shard that this thread works on."""


@dataclass(frozen=True, slots=True)
class StageProgress:
    """One stage under way."""

    at: StageAt
    shards: int
    shards_done: int = 0
    rows: int = 0
    rows_done: int = 0
    missing: int = 0
    note: str = ""
    started: float = 0.0
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the stage began, until it ended."""
        return (self.ended or time.monotonic()) - self.started


class CountRow(Protocol):
    """Counts one row."""

    def __call__(self, *, missing: bool = False, place: int = -1, failed: str = "") -> None:
        """It is done, or ``missing`` for now; one that is done may have failed for good, as the kind ``failed``.

        ``place`` is where it stands in the list that its shard asks.
        """


@dataclass(slots=True)
class _Tally:
    """Rows of one shard, as its last attempt counted them."""

    done: int = 0
    missing: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Kind of terminal failure → rows, which are done."""
    reached: int = 0
    """Rows up to the last one that is done."""


class Progress:
    """Stages in the order in which they began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[StageAt, StageProgress] = {}
        self._counted: dict[tuple[StageAt, int | None], _Tally] = {}
        """What each shard's last attempt counted."""
        self.given_up: dict[str, str] = {}
        """Who is asked no more in this process → why: see `tasks.limits`."""

    @contextmanager
    def stage(self, at: StageAt, *, shards: int, rows: int = 0) -> Iterator[None]:
        """A stage that begins now and ends with the block."""
        self.begin(at, shards=shards, rows=rows)
        try:
            yield
        finally:
            self.end(at)

    def begin(self, at: StageAt, *, shards: int, rows: int = 0) -> None:
        """A stage begins."""
        with self._lock:
            self._stages[at] = StageProgress(at, shards, rows=rows, started=time.monotonic())
            self._counted = {key: tally for key, tally in self._counted.items() if key[0] != at}

    def end(self, at: StageAt) -> None:
        """A stage ended."""
        self._change(at, ended=time.monotonic())

    @contextmanager
    def attempt(self, at: StageAt, shard: int) -> Iterator[None]:
        """One attempt at a shard, in this thread: what an attempt before it counted is counted anew."""
        with self._lock:
            before = self._counted.pop((at, shard), _Tally())
            self._add(at, -before.done, -before.missing)
        token = _SHARD.set(shard)
        try:
            yield
        finally:
            _SHARD.reset(token)

    def row_counter(self, at: StageAt) -> CountRow:
        """A function, for any thread, that counts one row of this thread's shard."""
        key = at, _SHARD.get()

        def count(*, missing: bool = False, place: int = -1, failed: str = "") -> None:
            with self._lock:
                tally = self._counted.setdefault(key, _Tally())
                tally.done += not missing
                tally.missing += missing
                tally.reached = max(tally.reached, place + 1)
                if failed:
                    tally.failed[failed] += 1
                self._add(at, int(not missing), int(missing))

        return count

    def failed(self, at: StageAt) -> tuple[Counter[str], int]:
        """Of the rows that the shards of a stage have reached in this process: how many failed for good, of how many.

        Rows are asked in order, and one that fails is done sooner than one that is answered: those that are in flight
        count as not failed.
        """
        with self._lock:
            tallies = [tally for (stage, _), tally in self._counted.items() if stage == at]
            return sum((tally.failed for tally in tallies), Counter()), sum(tally.reached for tally in tallies)

    def shard_done(self, at: StageAt) -> None:
        """One more shard of the stage is whole."""
        with self._lock:
            stage = self._stages.get(at)
            if stage is not None:
                self._stages[at] = replace(stage, shards_done=stage.shards_done + 1)

    def note(self, at: StageAt, text: str) -> None:
        """What a stage is waiting for or doing, in words."""
        self._change(at, note=text)

    def note_current(self, text: str) -> None:
        """Note on the stage that began last and still works, for an engine that serves no one stage."""
        with self._lock:
            working = [stage for stage in self._stages.values() if stage.ended is None]
            if working:
                self._stages[working[-1].at] = replace(working[-1], note=text)

    def stages(self) -> list[StageProgress]:
        """A snapshot, oldest first."""
        with self._lock:
            return list(self._stages.values())

    def _add(self, at: StageAt, done: int, missing: int) -> None:
        stage = self._stages.get(at)
        if stage is not None:
            self._stages[at] = replace(stage, rows_done=stage.rows_done + done, missing=stage.missing + missing)

    def _change(self, at: StageAt, **fields: object) -> None:
        with self._lock:
            if at in self._stages:
                self._stages[at] = replace(self._stages[at], **fields)  # type: ignore[arg-type]  # fields are its own
