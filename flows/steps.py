"""Stages from the flow's side: each in its turn, in one task or in shards that are submitted, awaited and sealed.

A stage that holds is one task run, which is cached. A shard that stays incomplete stands red; the stage goes on without
its rows only within ``calls.max_missing_share``.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from prefect import allow_failure
from prefect.utilities.annotations import opaque

from tapir_core import stages as stages_
from tapir_core.config import RunConfig
from tapir_core.data.dataset import DatasetRef
from tapir_core.run_folder import RunFolder, RunRef
from tasks import artifacts, runtime
from tasks._task import Work, late_tags, seal, work_of
from tasks.outcomes import Piece, ShardIncomplete, ShardOutcome

_MOST_SHARDS = 512
"""Of a stage: each is a thread and a task run. A stage of more rows has larger ones."""
_ROWS_AT_WORK, _SHARDS_AT_WORK = 32, 4
"""What of a stage is in memory at once, at least: rows for each request that a server takes at once, so that eight
servers have four times as many as they take; and shards."""

Again = Callable[[stages_.StageAt], bool]
"""Asked of a stage with shards, before they begin: whether to do it though it holds."""


def walk(
    ref: RunRef, stages: Iterable[stages_.StageAt], *, again: Again = lambda _: False
) -> Iterator[tuple[stages_.StageAt, DatasetRef]]:
    """Do these stages, inputs first; gives each with its rows as soon as it holds.

    Shards of stages that do not read each other work at the same time. Shards of a stage that follows another's begin
    one by one, each when its own predecessor is done, or when all are where the two ask models that a machine serves in
    turn. Those that are to be done ``again`` are done though they hold: the old seal stays until the next one takes its
    place.

    Raises:
        TooMuchMissing: more rows lack an outcome than a stage may go on without.
        ConfigError: more requests failed for good than a stage may go on with.
        BudgetReached: rows were not asked for because a cap is reached.
    """
    run, under_way = RunFolder(ref), list[_Shards]()
    for at in stages:
        work = work_of(run.config, at)
        before = next((each for each in under_way if each.at == replace(at, name=at.stage.shards_of)), None)
        reads_open = {each.at for each in under_way}.intersection(at.stage.reads(run.config, at))
        if not work.in_shards or (reads_open and before is None) or _waits_its_turn(run.config, at, under_way):
            yield from _seal_all(run, under_way)
        if run.holds(at) is None:
            for each in stages_.inner_stages(run.config, at):
                _run_whole(run, each)
        if not work.in_shards:
            yield at, _run_waves(run, at) if at.stage.wave_steps else _run_whole(run, at)
        elif not again(at) and run.holds(at) is not None:
            parts = run.sealed(at).parts
            under_way.append(_Shards(at, [ShardOutcome(part) for part in parts], sum(part.rows for part in parts)))
        else:
            under_way.append(_submit(run, at, work, before))
    yield from _seal_all(run, under_way)


def run_stages(
    ref: RunRef, stages: Iterable[stages_.StageAt], *, again: Again = lambda _: False
) -> dict[stages_.StageAt, DatasetRef]:
    """Do these stages as `walk` does; gives the rows of each."""
    return dict(walk(ref, stages, again=again))


@dataclass(frozen=True, slots=True)
class _Shards:
    """The shards of one stage: under way since ``started``, or what those of a stage wrote that holds."""

    at: stages_.StageAt
    shards: Sequence[Any]
    rows: int
    started: float | None = None


def _waits_its_turn(config: RunConfig, at: stages_.StageAt, under_way: Sequence[_Shards]) -> bool:
    """Whether it asks another model of this machine than shards that are under way."""
    asked = stages_.served_in_turn(config, at)
    return bool(asked) and bool({stages_.served_in_turn(config, each.at) for each in under_way} - {asked, ""})


def _run_waves(run: RunFolder, at: stages_.StageAt) -> DatasetRef:
    """Do the steps of a stage wave by wave, until one requests nothing or the waves are used up, then the last ones."""
    collected = stages_.with_steps(run.config, at, waves=())
    if not all(run.holds(each) for each in collected):
        for wave in run.config.waves(at.number):
            requests, *others = (step.at(at.round, wave) for step in at.stage.wave_steps)
            if run_stages(run.ref, [requests])[requests].rows == 0:
                break
            run_stages(run.ref, others)
    return [_run_whole(run, each) for each in collected][-1]


def _run_whole(run: RunFolder, at: stages_.StageAt) -> DatasetRef:
    """Do a stage that is one task."""
    return _done(work_of(run.config, at).task, run.ref, at)


def _done(task: Any, *given: Any) -> DatasetRef:
    """What a task comes to, in this thread."""
    with late_tags():
        return cast(DatasetRef, task(*given, return_state=True).result())


def _submit(run: RunFolder, at: stages_.StageAt, work: Work, before: _Shards | None) -> _Shards:
    """Submit a stage's shards: pieces of its plan, or one for each shard of ``before``."""
    if work.plan is not None:
        rows = work.plan(run, at).height
        size = max(_rows_per_shard(run.config, at), math.ceil(rows / _MOST_SHARDS))
        of = max(1, math.ceil(rows / size))
        pieces: list[tuple[Any, ...]] = [
            (Piece(index, of, index * size, min(rows, (index + 1) * size)),) for index in range(of)
        ]
    else:
        assert before is not None, f"{at} follows the shards of {at.stage.shards_of!r}, which come before it"
        rows, of = before.rows * at.stage.rows_per_row(run.config), len(before.shards)
        pieces = [(Piece(index, of), allow_failure(each)) for index, each in enumerate(before.shards)]
    runtime.current(run).progress.begin(at, shards=of, rows=rows, at_work=shards_at_work(run.config, at, of, rows))
    # A shard asks again for rows that another try may bring; the last try that leaves it red shows the rest.
    task = work.task.with_options(
        retries=run.config.calls.shard_retries,
        retry_delay_seconds=run.config.calls.shard_retry_seconds,
        retry_condition_fn=lambda _task, _run, state: (
            isinstance(state.data, ShardIncomplete) and "budget" not in state.data.outcome.missing
        ),
        on_failure=[partial(artifacts.publish_missing, run.ref)],
    )
    started = time.monotonic()
    with late_tags():
        return _Shards(at, [task.submit(run.ref, at, *piece) for piece in pieces], rows, started)


def _seal_all(run: RunFolder, under_way: list[_Shards]) -> Iterator[tuple[stages_.StageAt, DatasetRef]]:
    """Wait for the shards of each stage and declare it complete."""
    while under_way:
        stage = under_way.pop(0)
        if stage.started is None:
            yield stage.at, _done(seal, run.ref, stage.at, [])
            continue
        outcomes = [_outcome(each) for each in stage.shards]
        seconds = round(time.monotonic() - stage.started, 1)
        runtime.current(run).progress.end(stage.at)
        # Opaque, or Prefect looks for task runs in every field of every outcome.
        yield stage.at, _done(seal, run.ref, stage.at, opaque(outcomes), seconds)


def _rows_per_shard(config: RunConfig, at: stages_.StageAt) -> int:
    """`calls.rows_per_shard`, or what fills a batch where a Batch API is asked: each shard makes a batch of its own.

    Shards that others follow are those of their followers too.
    """
    following = [replace(at, name=stage.name) for stage in stages_.STAGES.values() if stage.shards_of == at.name]
    return max([config.calls.rows_per_shard, *_batches(config, at, *following)])


def shards_at_work(config: RunConfig, at: stages_.StageAt, of: int, rows: int) -> int:
    """How many of a stage's shards work at once; all where each is a batch of a Batch API, which takes hours."""
    at_once = _ROWS_AT_WORK * max(config.calls.concurrency, config.student.engine.concurrency)
    return of if _batches(config, at) else max(_SHARDS_AT_WORK, at_once * of // max(rows, 1))


def _batches(config: RunConfig, *asking: stages_.StageAt) -> list[int]:
    """Rows of a full batch, of each endpoint that these stages ask through a Batch API."""
    asked = (endpoint for each in asking for endpoint in stages_.asked_endpoints(config, each))
    return [endpoint.in_batches.max_rows for endpoint in asked if endpoint.in_batches]


def _outcome(shard: Any) -> ShardOutcome:
    """What a shard wrote, though it may lack rows."""
    try:
        return cast(ShardOutcome, shard.result())
    except ShardIncomplete as incomplete:
        return incomplete.outcome
