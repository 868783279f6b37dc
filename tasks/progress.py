"""How far the stages of a run are, which the terminal and the flow run show. Thread-safe; knows no display."""

import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

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


@dataclass(slots=True)
class Tally:
    """Rows of one shard, as its last attempt counts them, in whatever thread.

    It has a lock of its own: one for all would have every row of every shard wait for one another.
    """

    done: int = 0
    missing: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Kind of terminal failure → rows, which are done."""
    reached: int = 0
    """Rows up to the last one that is done."""
    is_whole: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, rows: int = 1, *, missing: bool = False, place: int = -1, failed: str = "") -> None:
        """Count rows: they are done, or ``missing`` for now; one that is done may have failed for good, as that kind.

        ``place`` is where a row stands in the list that its shard asks.
        """
        with self._lock:
            self.done += 0 if missing else rows
            self.missing += rows if missing else 0
            self.reached = max(self.reached, place + 1)
            self.failed.update([failed] if failed else [])

    def failures(self) -> Counter[str]:
        """Kind of terminal failure → rows, up to now."""
        with self._lock:
            return self.failed.copy()


class Progress:
    """Stages in the order in which they began."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stages: dict[StageAt, StageProgress] = {}
        self._tallies: dict[StageAt, dict[int | None, Tally]] = defaultdict(lambda: defaultdict(Tally))
        self._turns = dict[StageAt, threading.BoundedSemaphore]()
        self.given_up: dict[str, str] = {}
        """Who is asked no more in this process → why."""

    @contextmanager
    def stage(self, at: StageAt) -> Iterator[None]:
        """A stage without shards that begins now and ends with the block."""
        self.begin(at, shards=1)
        try:
            yield
        finally:
            self.end(at)

    def begin(self, at: StageAt, *, shards: int, rows: int = 0, at_work: int = 1) -> None:
        """A stage begins, of whose shards so many are to be at work at once."""
        with self._lock:
            self._turns[at] = threading.BoundedSemaphore(at_work)
            self._stages[at] = StageProgress(at, shards, rows=rows, started=time.monotonic())
            self._tallies.pop(at, None)

    def end(self, at: StageAt) -> None:
        """A stage ended."""
        with self._lock:
            self._stages[at] = replace(self._stages[at], ended=time.monotonic())

    @contextmanager
    def attempt(self, at: StageAt, shard: int) -> Iterator[None]:
        """One attempt at a shard, in this thread, in its turn; what an attempt before it counted is counted anew."""
        with self._turns.get(at, nullcontext()):
            with self._lock:
                tally = self._tallies[at][shard] = Tally()
            token = _SHARD.set(shard)
            try:
                yield
                tally.is_whole = True
            finally:
                _SHARD.reset(token)

    def row_counter(self, at: StageAt) -> Tally:
        """Counts rows of the shard that this thread works on; for any thread."""
        with self._lock:
            return self._tallies[at][_SHARD.get()]

    def failed(self, at: StageAt) -> tuple[Counter[str], int]:
        """Of the rows that the shards of a stage have reached in this process: how many failed for good, of how many.

        Rows are asked in order, and one that fails is done sooner than one that is answered: those that are in flight
        count as not failed.
        """
        with self._lock:
            tallies = self._tallies[at].values()
            return sum((tally.failures() for tally in tallies), Counter()), sum(tally.reached for tally in tallies)

    def note(self, at: StageAt, text: str) -> None:
        """What a stage is waiting for or doing, in words."""
        with self._lock:
            self._stages[at] = replace(self._stages[at], note=text)

    def note_current(self, text: str) -> None:
        """Note on the stage that began last and still works, for an engine that serves no one stage."""
        if working := [stage.at for stage in self.stages() if stage.ended is None]:
            self.note(working[-1], text)

    def stages(self) -> list[StageProgress]:
        """A snapshot, oldest first."""
        with self._lock:
            return [self._counted(stage) for stage in self._stages.values()]

    def _counted(self, stage: StageProgress) -> StageProgress:
        tallies = self._tallies[stage.at].values()
        return replace(
            stage,
            shards_done=sum(tally.is_whole for tally in tallies),
            # A candidate is labelled and answered: two outcomes of one row.
            rows_done=min(sum(tally.done for tally in tallies), stage.rows or sys.maxsize),
            missing=sum(tally.missing for tally in tallies),
        )
