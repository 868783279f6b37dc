"""Stages from the flow's side: each in its turn, in one task or in shards that are submitted, awaited and sealed.

A stage that holds submits nothing. A shard that stays incomplete stands red; the stage goes on without its rows only
within ``calls.max_missing_share``.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from prefect import allow_failure
from prefect.utilities.annotations import opaque

from tapir_core.config import RunConfig
from tapir_core.data.dataset import DatasetRef
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import EXPAND, STAGES, WAVE, StageAt, asked_endpoints, inner_stages, with_steps
from tasks._task import Work, late_tags, seal, work_of
from tasks.artifacts import publish_missing
from tasks.outcomes import Piece, ShardIncomplete, ShardOutcome
from tasks.runtime import current

Again = Callable[[StageAt], bool]
"""Asked of a stage that follows another's shards, before its own begin: whether to do it though it holds."""


def walk(
    ref: RunRef, stages: Iterable[StageAt], *, again: Again = lambda _: False
) -> Iterator[tuple[StageAt, DatasetRef]]:
    """Do these stages, inputs first; gives each with its rows as soon as it holds.

    Shards of stages that do not read each other work at the same time. Shards of a stage that follows another's begin
    one by one, each when its own predecessor is done. Those that are to be done ``again`` are done though they hold:
    the old seal stays until the next one takes its place.

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
        if not work.in_shards or (reads_open and before is None):
            yield from _seal_all(run, under_way)
        _run_inner(run, at)
        if not work.in_shards:
            yield at, _expand(run, at) if at.name == EXPAND.name else _run_whole(run, at)
        elif before is None:
            under_way.append(_submit(run, at, work))
        else:
            under_way.append(_follow(run, at, work, before, also_done=again(at)))
    yield from _seal_all(run, under_way)


def run_stages(ref: RunRef, stages: Iterable[StageAt], *, again: Again = lambda _: False) -> dict[StageAt, DatasetRef]:
    """Do these stages as `walk` does; gives the rows of each."""
    return dict(walk(ref, stages, again=again))


def run_stage(ref: RunRef, at: StageAt) -> DatasetRef:
    """Do one stage as `walk` does."""
    return run_stages(ref, [at])[at]


@dataclass(frozen=True, slots=True)
class _Shards:
    """The shards of one stage under way, or the outcomes of a stage that holds."""

    at: StageAt
    futures: Sequence[Any] = ()
    rows: int = 0
    started: float = 0.0
    done: DatasetRef | None = None


def _expand(run: RunFolder, at: StageAt) -> DatasetRef:
    """Expand a round's seeds, wave by wave, until nothing lacks or the waves are used up."""
    collected = with_steps(run.config, at, waves=())
    if all(run.holds(each) for each in collected):
        return run.holds(at)  # type: ignore[return-value]  # it holds
    for wave in range(1, run.config.curriculum.expansion.max_waves + 1):
        requests, *others = (step.at(at.round, wave) for step in WAVE)
        if run_stage(run.ref, requests).rows == 0:
            break
        run_stages(run.ref, others)
    made = [_run_whole(run, each) for each in collected]
    return made[-1]


def _run_inner(run: RunFolder, at: StageAt) -> None:
    """Do the stages that are made only for those that read them, if ``at`` reads some and does not hold."""
    inner = inner_stages(run.config, at)
    if inner and run.holds(at) is None:
        for each in inner:
            _run_whole(run, each)


def _run_whole(run: RunFolder, at: StageAt) -> DatasetRef:
    """Do a stage that is one task, or nothing when it holds."""
    with late_tags():
        return run.holds(at) or work_of(run.config, at).task(run.ref, at)


def _submit(run: RunFolder, at: StageAt, work: Work) -> _Shards:
    """Submit a stage's shards, pieces of its plan; none, and the plan is not read, when the stage holds."""
    if (done := run.holds(at)) is not None:
        manifest = run.manifest(at)
        assert manifest is not None
        return _Shards(at, [ShardOutcome(i, part) for i, part in enumerate(manifest.parts)], manifest.rows, done=done)
    assert work.plan is not None
    rows, size = work.plan(run, at).height, _rows_per_shard(run.config, at)
    of = max(1, math.ceil(rows / size))
    pieces = [Piece(index, of, index * size, min(rows, (index + 1) * size)) for index in range(of)]
    return _started(run, at, _submitter(run, at, work), pieces, rows)


def _follow(run: RunFolder, at: StageAt, work: Work, before: _Shards, *, also_done: bool) -> _Shards:
    """Submit one shard for each shard of ``before``; none when the stage holds, unless ``also_done``."""
    if before.done is not None and not also_done and (done := run.holds(at)) is not None:
        return _Shards(at, done=done)
    pieces = [Piece(index, len(before.futures)) for index in range(len(before.futures))]
    submit = _submitter(run, at, work)

    def submit_after(piece: Piece) -> Any:
        after = before.futures[piece.index]
        return submit(piece, after if isinstance(after, ShardOutcome) else allow_failure(after))

    return _started(run, at, submit_after, pieces, before.rows * at.stage.rows_per_row(run.config))


def _started(run: RunFolder, at: StageAt, submit: Callable[[Piece], Any], pieces: list[Piece], rows: int) -> _Shards:
    current(run).progress.begin(at, shards=len(pieces), rows=rows)
    started = time.monotonic()
    with late_tags():
        return _Shards(at, [submit(piece) for piece in pieces], rows, started)


def _seal_all(run: RunFolder, under_way: list[_Shards]) -> Iterator[tuple[StageAt, DatasetRef]]:
    """Wait for the shards of each stage and declare it complete."""
    while under_way:
        shards = under_way.pop(0)
        yield shards.at, shards.done or _seal(run, shards)


def _seal(run: RunFolder, shards: _Shards) -> DatasetRef:
    outcomes = [_outcome(future) for future in shards.futures]
    seconds = round(time.monotonic() - shards.started, 1)
    current(run).progress.end(shards.at)
    with late_tags():
        # Opaque, or Prefect looks for task runs in every field of every outcome.
        sealed: DatasetRef = seal(run.ref, shards.at, opaque(outcomes), seconds)
    return sealed


def _rows_per_shard(config: RunConfig, at: StageAt) -> int:
    """`calls.rows_per_shard`, or what fills a batch where a Batch API is asked: each shard makes a batch of its own.

    Shards that others follow are those of their followers too.
    """
    following = [replace(at, name=stage.name) for stage in STAGES.values() if stage.shards_of == at.name]
    endpoints = [endpoint for each in (at, *following) for endpoint in asked_endpoints(config, each)]
    filled = [batches.max_rows for endpoint in endpoints if (batches := endpoint.in_batches)]
    return max([config.calls.rows_per_shard, *filled])


def _submitter(run: RunFolder, at: StageAt, work: Work) -> Callable[..., Any]:
    """Submits a shard with the run's retries: one that lacks what another try may bring asks again for that.

    The last try that leaves it red shows what it lacks.
    """
    calls = run.config.calls
    patient = work.task.with_options(
        retries=calls.shard_retries,
        retry_delay_seconds=calls.shard_retry_seconds,
        retry_condition_fn=_may_get_more,
        on_failure=[partial(publish_missing, run.ref)],
    )
    return partial(patient.submit, run.ref, at)


def _may_get_more(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.data, ShardIncomplete) and "budget" not in state.data.outcome.missing


def _outcome(future: Any) -> ShardOutcome:
    if isinstance(future, ShardOutcome):
        return future
    try:
        outcome: ShardOutcome = future.result()
    except ShardIncomplete as incomplete:
        return incomplete.outcome
    return outcome
