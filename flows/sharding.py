"""Sharded stages from the flow's side: submit shards, wait for all, seal the stage with what they wrote.

A stage that holds submits nothing. A shard that stays incomplete stands red; the stage goes on without its rows only
within ``calls.max_missing_share``.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import allow_failure

from tapir_core.data.dataset import DatasetRef
from tapir_core.errors import IncompleteBatch
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks._task import Piece, ShardIncomplete, ShardOutcome
from tasks.runtime import current
from tasks.seal import seal

__all__ = ["Shards", "follow_shards", "run_shards", "seal_stage", "submit_shards"]


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of one stage under way, or the outcomes of a stage that holds."""

    at: StageAt
    futures: Sequence[Any]
    started: float
    done: DatasetRef | None = None


def run_shards(run: RunRef, at: StageAt, shard: Any, rows: int) -> DatasetRef:
    """Work on ``rows`` planned rows in shards and seal the stage."""
    return seal_stage(run, submit_shards(run, at, shard, rows))


def submit_shards(run: RunRef, at: StageAt, shard: Any, rows: int) -> Shards:
    """Submit a stage's shards, at most ``calls.rows_per_shard`` planned rows each; none when the stage holds."""
    folder = RunFolder(run)
    done = folder.holds(at)
    if done is not None:
        manifest = folder.manifest(at)
        assert manifest is not None
        return Shards(at, [ShardOutcome(i, part) for i, part in enumerate(manifest.parts)], time.monotonic(), done)
    size = folder.config.calls.rows_per_shard
    of = max(1, math.ceil(rows / size))
    pieces = [Piece(index, of, index * size, min(rows, (index + 1) * size)) for index in range(of)]
    return _submit(folder, at, lambda piece: _patient(folder, shard).submit(run, at, piece), pieces, rows)


def follow_shards(run: RunRef, at: StageAt, shard: Any, before: Shards, rows: int) -> Shards:
    """Submit one shard for each shard of ``before``; each starts when its own predecessor is done."""
    folder = RunFolder(run)
    if before.done is not None and (done := folder.holds(at)) is not None:
        return Shards(at, [], time.monotonic(), done)
    pieces = [Piece(index, len(before.futures)) for index in range(len(before.futures))]

    def submit(piece: Piece) -> Any:
        after = before.futures[piece.index]
        waits = after if isinstance(after, ShardOutcome) else allow_failure(after)
        return _patient(folder, shard).submit(run, at, piece, waits)

    return _submit(folder, at, submit, pieces, rows)


def seal_stage(run: RunRef, shards: Shards) -> DatasetRef:
    """Wait for the shards and declare the stage complete.

    Raises:
        TooMuchMissing: more rows lack an outcome than the stage may go on without.

    """
    if shards.done is not None:
        return shards.done
    outcomes = [_outcome(future) for future in shards.futures]
    seconds = round(time.monotonic() - shards.started, 1)
    current(RunFolder(run)).progress.end(shards.at)
    sealed: DatasetRef = seal(run, shards.at, outcomes, seconds)
    return sealed


def _submit(folder: RunFolder, at: StageAt, submit: Callable[[Piece], Any], pieces: list[Piece], rows: int) -> Shards:
    current(folder).progress.begin(at, shards=len(pieces), rows=rows)
    started = time.monotonic()
    return Shards(at, [submit(piece) for piece in pieces], started)


def _patient(folder: RunFolder, shard: Any) -> Any:
    """The shard task with the run's retries: an incomplete shard asks again for what it lacks, nothing else does."""
    calls = folder.config.calls
    return shard.with_options(
        retries=calls.shard_retries,
        retry_delay_seconds=calls.shard_retry_seconds,
        retry_condition_fn=_is_incomplete,
    )


def _is_incomplete(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.data, IncompleteBatch)


def _outcome(future: Any) -> ShardOutcome:
    if isinstance(future, ShardOutcome):
        return future
    future.wait()
    result = future.state.result(raise_on_failure=False)
    if isinstance(result, ShardIncomplete):
        return result.outcome
    if isinstance(result, BaseException):
        raise result
    assert isinstance(result, ShardOutcome)
    return result
