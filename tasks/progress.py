"""What a run is doing now, for the terminal: stages, shards, rows, spend, missing. Thread-safe, knows no display."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tapir_core.stages import StageAt

__all__ = ["Progress", "StageProgress"]


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


class Progress:
    """Stages in the order in which they began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[StageAt, StageProgress] = {}

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

    def end(self, at: StageAt) -> None:
        """A stage ended."""
        self._change(at, ended=time.monotonic())

    def row_done(self, at: StageAt, *, missing: bool = False) -> None:
        """One more row of the stage has an outcome, or is missing for now."""
        with self._lock:
            stage = self._stages.get(at)
            if stage is not None:
                self._stages[at] = replace(
                    stage, rows_done=stage.rows_done + (not missing), missing=stage.missing + missing
                )

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
        """The same, of the stage that began last and still works: what an engine reports that serves no stage alone."""
        with self._lock:
            working = [stage for stage in self._stages.values() if stage.ended is None]
            if working:
                self._stages[working[-1].at] = replace(working[-1], note=text)

    def stages(self) -> list[StageProgress]:
        """A snapshot, oldest first."""
        with self._lock:
            return list(self._stages.values())

    def _change(self, at: StageAt, **fields: object) -> None:
        with self._lock:
            if at in self._stages:
                self._stages[at] = replace(self._stages[at], **fields)  # type: ignore[arg-type]  # fields are its own
