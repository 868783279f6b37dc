"""What a run is doing now: stages, shards, rows, missing, and who is asked no more. Thread-safe, knows no display.

The terminal shows it; by it `tasks.asking` gives a lost stage up.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Protocol

from tapir_core.stages import StageAt

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
        self._lock = threading.RLock()
        self._stages: dict[StageAt, StageProgress] = {}
        self._counted: dict[StageAt, dict[int | None, _Tally]] = defaultdict(lambda: defaultdict(_Tally))
        """What the last attempt at each shard of a stage counted."""
        self.given_up: dict[str, str] = {}
        """Who is asked no more in this process → why: see `tasks.outcomes`."""

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
            self._counted.pop(at, None)

    def end(self, at: StageAt) -> None:
        """A stage ended."""
        self._change(at, ended=time.monotonic())

    @contextmanager
    def attempt(self, at: StageAt, shard: int) -> Iterator[None]:
        """One attempt at a shard, in this thread: what an attempt before it counted is counted anew."""
        with self._lock:
            self._counted[at][shard] = _Tally()
        token = _SHARD.set(shard)
        try:
            yield
        finally:
            _SHARD.reset(token)

    def row_counter(self, at: StageAt) -> CountRow:
        """A function, for any thread, that counts one row of this thread's shard."""
        shard = _SHARD.get()

        def count(*, missing: bool = False, place: int = -1, failed: str = "") -> None:
            with self._lock:
                tally = self._counted[at][shard]
                tally.done += not missing
                tally.missing += missing
                tally.reached = max(tally.reached, place + 1)
                if failed:
                    tally.failed[failed] += 1

        return count

    def failed(self, at: StageAt) -> tuple[Counter[str], int]:
        """Of the rows that the shards of a stage have reached in this process: how many failed for good, of how many.

        Rows are asked in order, and one that fails is done sooner than one that is answered: those that are in flight
        count as not failed.
        """
        with self._lock:
            tallies = self._counted[at].values()
            return sum((tally.failed for tally in tallies), Counter()), sum(tally.reached for tally in tallies)

    def shard_done(self, at: StageAt) -> None:
        """One more shard of the stage is whole."""
        with self._lock:
            if at in self._stages:
                self._change(at, shards_done=self._stages[at].shards_done + 1)

    def note(self, at: StageAt, text: str) -> None:
        """What a stage is waiting for or doing, in words."""
        self._change(at, note=text)

    def note_current(self, text: str) -> None:
        """Note on the stage that began last and still works, for an engine that serves no one stage."""
        if working := [stage.at for stage in self.stages() if stage.ended is None]:
            self.note(working[-1], text)

    def stages(self) -> list[StageProgress]:
        """A snapshot, oldest first."""
        with self._lock:
            return [
                replace(
                    stage,
                    rows_done=sum(tally.done for tally in self._counted[stage.at].values()),
                    missing=sum(tally.missing for tally in self._counted[stage.at].values()),
                )
                for stage in self._stages.values()
            ]

    def _change(self, at: StageAt, **fields: object) -> None:
        with self._lock:
            if at in self._stages:
                self._stages[at] = replace(self._stages[at], **fields)  # type: ignore[arg-type]  # fields are its own
