"""The project's own Prefect tasks: the work, then one write at the end. A stage that holds is no task (flows/steps.py).

Nobody imports Prefect's ``task`` but this module. A task takes a `RunRef`, a round number and plain values, and returns
a reference, so it can run on any worker that reaches the run root. Prefect keeps that reference as JSON under the task
run's id, for who asks the API for it; no other task run finds it. The manifest is the only evidence that a stage is
done, so a kill between the two serves nothing stale and costs nothing twice.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from inspect import signature
from typing import Any

import polars as pl
from prefect import task as prefect_task
from prefect.states import Cancelled

from tapir_core.data.dataset import DatasetRef, read_part, write_part
from tapir_core.errors import ConfigError, Stopped
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import STAGES, StageAt
from tasks.late_tags import tag_task_run
from tasks.limits import asked_of
from tasks.outcomes import Piece, ShardIncomplete, ShardOutcome, Worked
from tasks.runtime import current

__all__ = ["project_task", "shard_task", "stage_task"]

Plan = Callable[[RunFolder, StageAt], pl.DataFrame]
"""All rows that a sharded stage works on, in their order."""


def project_task(
    name: str, *, run_name: str | None = None, tags: tuple[str, ...] = (), limited_by: tuple[str, ...] = ()
) -> Callable[..., Any]:
    """Prefect's task with this project's settings; Prefect keeps concurrency limits of the tags ``limited_by``.

    One that is told to stop ends as cancelled, which is no failure.
    """
    settings = prefect_task(
        name=name,
        task_run_name=run_name or name,
        tags=limited_by,
        # With a place of its own a result is in no cache; without one, and without a cache, Prefect would not write it.
        result_storage_key="{task_run.id}",
        persist_result=True,
        result_serializer="json",
    )

    def wrap(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def body(*args: Any, **kwargs: Any) -> Any:
            tag_task_run(f"stage-{name}", *tags)
            try:
                return function(*args, **kwargs)
            except Stopped as stopped:
                return Cancelled(message=str(stopped))

        # Prefect asks for it three times a task run.
        body.__signature__ = signature(function)  # type: ignore[attr-defined]  # functions may have one
        return settings(body)

    return wrap


def stage_task(name: str) -> Callable[[Callable[[RunFolder, StageAt], Worked]], Any]:
    """A stage in one task: ``function(run, at)`` makes its rows."""

    def wrap(function: Callable[[RunFolder, StageAt], Worked]) -> Any:
        @project_task(name, run_name=name + _of_wave(name, "wave"))
        def run_stage(
            ref: RunRef,
            round_number: int | None = None,
            wave: int | None = None,
            benchmark: str | None = None,
            model: str | None = None,
        ) -> DatasetRef:
            at, run, started = StageAt(name, round_number, wave, benchmark, model), RunFolder(ref), time.monotonic()
            with current(run).progress.stage(at, shards=1):
                worked = function(run, at)
                seconds = round(time.monotonic() - started, 1)
                current(run).check_lease()
                made = run.write(at, worked.rows, counts={**worked.counts, "seconds": seconds})
            current(run).forget_tables()
            return made

        return run_stage

    return wrap


def shard_task(
    name: str, *, plan: Plan | None = None, reads: str | None = None
) -> Callable[[Callable[[RunFolder, StageAt, pl.DataFrame], Worked]], Any]:
    """One shard of a stage: ``function(run, at, rows)``.

    Its rows are a piece of the stage's ``plan``, or the part that the shard of ``reads`` with its index wrote. It
    writes its own part, then returns a `ShardOutcome`, or raises `ShardIncomplete` when some outcomes are retryable.
    """
    assert (plan is None) != (reads is None), "a shard reads its stage's plan or another stage's part"
    _SHARDS.add(name)

    def wrap(function: Callable[[RunFolder, StageAt, pl.DataFrame], Worked]) -> Any:
        named = f"{name} {{piece.index:04d}}/{{piece.of:04d}}{_of_wave(name, 'at.wave')}"

        @project_task(name, run_name=named, tags=("shard",))
        def run_shard(
            ref: RunRef, at: StageAt, piece: Piece, after: ShardOutcome | ShardIncomplete | ConfigError | None = None
        ) -> ShardOutcome:
            run = RunFolder(ref)
            with current(run).progress.attempt(at, piece.index):
                if reads is not None:
                    assert after is not None
                    if isinstance(after, ConfigError):
                        raise after
                    part = (after.outcome if isinstance(after, ShardIncomplete) else after).part
                    rows = read_part(run.storage, replace(at, name=reads).folder, part)
                else:
                    assert plan is not None
                    rows = plan(run, at)[piece.start : piece.stop]
                worked = function(run, at, rows)
                written = write_part(run.storage, at.folder, worked.rows.select(STAGES[name].columns))
            outcome = ShardOutcome(
                piece.index, written, worked.counts, worked.missing, worked.failed, worked.asked, worked.samples
            )
            if "stopped" in outcome.missing:
                if why := current(run).progress.given_up.get(asked_of(at)):
                    raise ConfigError(why)
                raise Stopped(f"{worked.rows.height} rows are done and stored; the next start asks for the rest")
            if outcome.missing:
                raise ShardIncomplete(at, outcome)
            current(run).progress.shard_done(at)
            return outcome

        run_shard.plan = plan  # the flow cuts it into pieces
        return run_shard

    return wrap


def _tells_more(record: logging.LogRecord) -> bool:
    """Whether a line says more than that a shard is done, which its task run says: a run has thousands of them."""
    done = record.getMessage().startswith("Finished in state Completed")
    return not (done and getattr(record, "task_name", "") in _SHARDS)


_SHARDS: set[str] = set()
"""Names of the tasks that do a shard."""
logging.getLogger("prefect.task_runs").addFilter(_tells_more)


def _of_wave(name: str, wave: str) -> str:
    """What tells the task runs of a wave's steps apart: a round has several waves."""
    return f" (wave {{{wave}}})" if name.startswith("wave_") else ""
