"""What stages and their shards take and give. Plain values, so that they travel to any worker; knows no Prefect."""

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tapir_core.data.dataset import Part
from tapir_core.errors import IncompleteBatch
from tapir_core.stages import StageAt

__all__ = ["Piece", "Sample", "ShardIncomplete", "ShardOutcome", "Worked"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One row that has no answer, and why: for who looks at a shard or stage that failed."""

    instruction_id: str
    kind: str
    attempts: int
    said: str
    """What the provider said, shortened."""
    instruction: str
    """Its beginning."""


@dataclass(frozen=True, slots=True)
class Worked:
    """Rows that a stage or shard made, and what it counted."""

    rows: pl.DataFrame
    counts: dict[str, float] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    """Kind of retryable failure → rows without an outcome; an empty one means whole."""
    failed: dict[str, int] = field(default_factory=dict)
    """Kind of terminal failure → rows that will never have an answer."""
    asked: int = 0
    """Rows that a model was asked for: what ``failed`` is a part of."""
    samples: tuple[Sample, ...] = ()
    """Some of the missing and failed rows, of every kind."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one shard works on: rows ``start`` to ``stop`` of its stage's plan."""

    index: int
    of: int
    start: int = 0
    stop: int = 0


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What one shard wrote."""

    index: int
    part: Part
    counts: dict[str, float] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    asked: int = 0
    samples: tuple[Sample, ...] = ()


class ShardIncomplete(IncompleteBatch):
    """Raised when a shard has retryable outcomes left; what it has is written and goes along."""

    def __init__(self, at: StageAt, outcome: ShardOutcome) -> None:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.missing.items()))
        super().__init__(
            f"{at}, shard {outcome.index}: {kinds}; everything received is stored, the same command asks only these"
        )
        self.at = at
        self.outcome = outcome

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardIncomplete, (self.at, self.outcome)
