"""Stages from the flow's side: run one in a single task, or in shards that are submitted, awaited and sealed.

A stage that holds submits nothing. A shard that stays incomplete stands red; the stage goes on without its rows only
within ``calls.max_missing_share``. What comes after the stage that the user wants to reach is not started.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect import allow_failure
from prefect.utilities.annotations import opaque

from flows.until import comes_after, end_if_reached
from tapir_core.config import RunConfig
from tapir_core.data.dataset import DatasetRef
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks.artifacts import publish_missing
from tasks.late_tags import late_tags
from tasks.outcomes import Piece, ShardIncomplete, ShardOutcome
from tasks.runtime import current
from tasks.seal import seal

__all__ = ["Shards", "follow_shards", "run_shards", "run_stage", "seal_stage", "submit_shards"]


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of one stage under way, or the outcomes of a stage that holds."""

    at: StageAt
    futures: Sequence[Any] = ()
    rows: int = 0
    started: float = 0.0
    done: DatasetRef | None = None


def run_stage(ref: RunRef, stage: Any, number: int | None = None, **place: Any) -> DatasetRef:
    """Do a stage that is one task, or nothing when it holds.

    Args:
        ref: The run.
        stage: The stage's task.
        number: Its round; nothing for the stages that run once.
        place: Its wave, benchmark and model, as far as it has them: fields of `StageAt`.

    Raises:
        Reached: the user wants no more than this stage.
    """
    run, at = RunFolder(ref), StageAt(stage.name, number, **place)
    with late_tags():
        made: DatasetRef = run.holds(at) or stage(ref, number, **place)
    end_if_reached(run, at)
    return made


def run_shards(ref: RunRef, at: StageAt, shard: Any) -> DatasetRef:
    """Work on a stage's planned rows in shards and seal it."""
    return seal_stage(ref, submit_shards(ref, at, shard))


def submit_shards(ref: RunRef, at: StageAt, shard: Any) -> Shards:
    """Submit a stage's shards, pieces of its plan; none, and the plan is not read, when the stage holds."""
    run = RunFolder(ref)
    if comes_after(run.config, at, current(run).until):
        return Shards(at)
    done = run.holds(at)
    if done is not None:
        manifest = run.manifest(at)
        assert manifest is not None
        futures = [ShardOutcome(i, part) for i, part in enumerate(manifest.parts)]
        return Shards(at, futures, manifest.rows, done=done)
    rows, size = shard.plan(run, at).height, _rows_per_shard(run.config, at)
    of = max(1, math.ceil(rows / size))
    pieces = [Piece(index, of, index * size, min(rows, (index + 1) * size)) for index in range(of)]
    patient = _patient(run, shard)
    return _submit(run, at, lambda piece: patient.submit(ref, at, piece), pieces, rows)


def follow_shards(
    ref: RunRef, at: StageAt, shard: Any, before: Shards, *, each: int = 1, also_done: bool = False
) -> Shards:
    """Submit one shard for each shard of ``before``; each starts when its own predecessor is done.

    Of each row of ``before`` it makes ``each`` rows. A stage that holds submits nothing, unless ``also_done``; its seal
    stays until the next one takes its place.
    """
    run = RunFolder(ref)
    if comes_after(run.config, at, current(run).until):
        return Shards(at)
    if before.done is not None and not also_done and (done := run.holds(at)) is not None:
        return Shards(at, done=done)
    pieces = [Piece(index, len(before.futures)) for index in range(len(before.futures))]
    patient = _patient(run, shard)

    def submit(piece: Piece) -> Any:
        after = before.futures[piece.index]
        waits = after if isinstance(after, ShardOutcome) else allow_failure(after)
        return patient.submit(ref, at, piece, waits)

    return _submit(run, at, submit, pieces, before.rows * each)


def seal_stage(ref: RunRef, shards: Shards) -> DatasetRef:
    """Wait for the shards and declare the stage complete.

    Raises:
        TooMuchMissing: more rows lack an outcome than the stage may go on without.
        ConfigError: more requests failed for good than the stage may go on with.
        BudgetReached: rows were not asked for because a cap is reached.
        Reached: the user wants no more than this stage.
    """
    run = RunFolder(ref)
    sealed = shards.done
    if sealed is None:
        outcomes = [_outcome(future) for future in shards.futures]
        seconds = round(time.monotonic() - shards.started, 1)
        current(run).progress.end(shards.at)
        with late_tags():
            # Opaque, or Prefect looks for task runs in every field of every outcome.
            sealed = seal(ref, shards.at, opaque(outcomes), seconds)
    end_if_reached(run, shards.at)
    return sealed


def _submit(run: RunFolder, at: StageAt, submit: Callable[[Piece], Any], pieces: list[Piece], rows: int) -> Shards:
    current(run).progress.begin(at, shards=len(pieces), rows=rows)
    started = time.monotonic()
    with late_tags():
        return Shards(at, [submit(piece) for piece in pieces], rows, started)


def _rows_per_shard(config: RunConfig, at: StageAt) -> int:
    """`calls.rows_per_shard`, or what fills a batch where a Batch API is asked: each shard makes a batch of its own.

    Answers are judged in the shards in which they were made, so theirs follow the judges.
    """
    asked = {"answer": list(config.judge.endpoints.values()), "answer_heldout": []}
    if at.benchmark is not None:
        judged = config.evaluation.judged.get(at.benchmark)
        asked[at.name] = [config.judge_of(judged)] if judged else []
    endpoints = asked.get(at.name, [config.teacher.endpoint])
    filled = [batches.max_rows for endpoint in endpoints if (batches := endpoint.in_batches)]
    return max([config.calls.rows_per_shard, *filled])


def _patient(run: RunFolder, shard: Any) -> Any:
    """The shard task with the run's retries: a shard that lacks what another try may bring asks again for that.

    The last try that leaves it red shows what it lacks.
    """
    calls = run.config.calls
    return shard.with_options(
        retries=calls.shard_retries,
        retry_delay_seconds=calls.shard_retry_seconds,
        retry_condition_fn=_may_get_more,
        on_failure=[partial(publish_missing, run.ref)],
    )


def _may_get_more(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.data, ShardIncomplete) and "budget" not in state.data.outcome.missing


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
