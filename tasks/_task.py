"""The project's own Prefect tasks: the work of a stage, then one write at the end.

`@stage_task` and `@shard_task` declare the work of a stage; `seal` is what follows the shards of one. A stage that
holds already appears as a task run that is *Cached*: of its own task, or, where it has shards, of its seal.

Nobody imports Prefect's ``task`` but this module. A task takes a `RunRef`, a round number and plain values, and returns
a reference, so it can run on any worker that reaches the run root. Prefect keeps that reference as JSON under the task
run's id, for who asks the API for it; no other task run finds it. The manifest is the only evidence that a stage is
done, so a kill between the two serves nothing stale and costs nothing twice.

A task run gets its tags of run, round and stage once it works, not when it begins: one that begins with tags makes
Prefect ask its server for a concurrency limit of each, and a server on SQLite that is writing other task runs down
answers that its database is locked, for which Prefect's client sleeps for two seconds: more than most stages work.
Measured with Prefect 3.8.8 and five tags, three times each: 20 tasks one by one take 0.09, 2.63 and 2.75 s where they
begin with tags, 0.07 to 0.36 s without; 60 tasks at once 0.7, 2.4 and 2.8 s with, 0.4 to 0.6 s without. No setting of
Prefect changes this wait. Limits: a task run shows these tags when it has ended or failed once, and a concurrency limit
of such a tag holds nothing back. A tag that should, such as `gpu`, is the task's own.
"""

import importlib
import logging
import pkgutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache, wraps
from pathlib import Path
from typing import Any

import polars as pl
from prefect import states
from prefect import task as prefect_task
from prefect.client.schemas.objects import State
from prefect.context import TagsContext, TaskRunContext

from tapir_core.config import RunConfig
from tapir_core.data.dataset import DatasetRef, in_columns, read_part, write_part
from tapir_core.errors import BudgetReached, ConfigError, Stopped
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import TEACH, WAVE, Stage, StageAt, always
from tasks import outcomes
from tasks.runtime import current

Plan = Callable[[RunFolder, StageAt], pl.DataFrame]
"""All rows that a sharded stage works on, in their order."""
When = Callable[[RunConfig, StageAt], bool]
Before = outcomes.ShardOutcome | Exception
"""What came of the shard that another one follows."""

_LATE_TAGS: ContextVar[frozenset[str]] = ContextVar("late_tags", default=frozenset())


def project_task(
    name: str, *, run_name: str | None = None, tags: tuple[str, ...] = (), limited_by: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Any]:
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
            _tag_task_run(f"stage-{name}", *tags)
            try:
                return function(*args, **kwargs)
            except Stopped as stopped:
                return states.Cancelled(message=str(stopped))

        return settings(body)

    return wrap


@contextmanager
def late_tags() -> Iterator[None]:
    """Tasks of the block begin without the tags of Prefect's context, and get them when they work."""
    token = _LATE_TAGS.set(frozenset(TagsContext.get().current_tags))
    try:
        with TagsContext(current_tags=set()):
            yield
    finally:
        _LATE_TAGS.reset(token)


def _tag_task_run(*tags: str) -> None:
    """Called in a task: its run carries ``tags`` and the late ones from its next state on; outside a task, nothing."""
    if (context := TaskRunContext.get()) is not None:
        context.task_run.tags = sorted({*context.task_run.tags, *_LATE_TAGS.get(), *tags})


@dataclass(frozen=True, slots=True)
class Work:
    """The Prefect task that does a stage."""

    task: Any
    when: When
    in_shards: bool = False
    plan: Plan | None = None
    """Of a stage whose shards are pieces of one table."""


_WORK: dict[str, list[Work]] = defaultdict(list)


def does(
    stage: Stage, *, when: When = always, in_shards: bool = False, plan: Plan | None = None
) -> Callable[[Any], Any]:
    """Declare that a task is the work of ``stage``, for the configurations and places that ``when`` says."""

    def register(task: Any) -> Any:
        _WORK[stage.name].append(Work(task, when, in_shards, plan))
        return task

    return register


def work_of(config: RunConfig, at: StageAt) -> Work:
    """The work of a stage: of all modules in `tasks/`, the one piece that says so with `stage_task` or `shard_task`.

    Raises:
        TypeError: there is none, or there are several.
    """
    _import_all_work()
    found = [work for work in _WORK[at.name] if work.when(config, at)]
    if len(found) != 1:
        raise TypeError(
            f"stage {at.name!r} has {len(found) or 'no'} pieces of work for {at}; write one function in a module of "
            f"tasks/ under @stage_task({at.name.upper()}) or @shard_task({at.name.upper()}, …) (docs/extending.md)"
        )
    return found[0]


@cache
def _import_all_work() -> None:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"tasks.{module.name}")


def stage_task(
    stage: Stage, *, when: When = always
) -> Callable[[Callable[[RunFolder, StageAt], outcomes.Worked]], Any]:
    """The work of a stage in one task: ``function(run, at)`` makes its rows."""

    def wrap(function: Callable[[RunFolder, StageAt], outcomes.Worked]) -> Any:
        @does(stage, when=when)
        @project_task(stage.name, run_name=stage.name + _of_wave(stage))
        def run_stage(ref: RunRef, at: StageAt) -> DatasetRef | State[Any]:
            run, started = RunFolder(ref), time.monotonic()
            if (held := run.holds(at)) is not None:
                return cached(held)
            with current(run).progress.stage(at):
                worked = function(run, at)
                current(run).check_lease()
                made = run.write(
                    at, worked.rows, counts={**worked.counts, "seconds": round(time.monotonic() - started, 1)}
                )
            current(run).forget_tables()
            return made

        return run_stage

    return wrap


def shard_task(
    stage: Stage, *, plan: Plan | None = None, when: When = always
) -> Callable[[Callable[[RunFolder, StageAt, pl.DataFrame], outcomes.Worked]], Any]:
    """The work of a stage in shards: ``function(run, at, rows)`` does one.

    Its rows are a piece of the stage's ``plan``, or, of a stage whose shards follow another's, the part that the shard
    with its index wrote. It writes its own part, then returns a `ShardOutcome`, or raises `ShardIncomplete` when some
    outcomes are retryable.

    Raises:
        TypeError: it has both, or neither.
    """
    if (plan is None) != bool(stage.shards_of):
        raise TypeError(f"stage {stage.name!r}: give its shards a plan=, or its declaration shards_of=, and not both")

    def wrap(function: Callable[[RunFolder, StageAt, pl.DataFrame], outcomes.Worked]) -> Any:
        run_name = f"{stage.name} {{piece.index:04d}}/{{piece.of:04d}}{_of_wave(stage)}"

        @does(stage, when=when, in_shards=True, plan=plan)
        @project_task(stage.name, run_name=run_name, tags=("shard",))
        def run_shard(
            ref: RunRef, at: StageAt, piece: outcomes.Piece, after: Before | None = None
        ) -> outcomes.ShardOutcome:
            run = RunFolder(ref)
            progress = current(run).progress
            with progress.attempt(at, piece.index):
                current(run).check_stop(at)
                worked = function(
                    run, at, plan(run, at)[piece.start : piece.stop] if plan else _rows_of(run, at, after)
                )
                part = write_part(run.storage, at.folder, in_columns(worked.rows, stage.columns, stage.some_have))
                if worked.missing and (why := progress.given_up.get(stage.asks)):
                    raise ConfigError(why)
                if "stopped" in worked.missing:
                    raise Stopped(f"{part.rows} rows are done and stored; the next start asks for the rest")
                outcome: outcomes.ShardOutcome = replace(worked, rows=part)  # type: ignore[arg-type, assignment]
                if outcome.missing:
                    raise outcomes.ShardIncomplete(at, piece.index, outcome)
            return outcome

        return run_shard

    return wrap


def _rows_of(run: RunFolder, at: StageAt, before: Before | None) -> pl.DataFrame:
    """What the shard before wrote, though it may lack rows; where it wrote nothing, its error says why."""
    wrote = before.outcome if isinstance(before, outcomes.ShardIncomplete) else before
    if isinstance(wrote, Exception):
        raise wrote
    assert wrote is not None, f"{at} follows the shards of another stage"
    return read_part(run.storage, replace(at, name=at.stage.shards_of).folder, wrote.rows)


@project_task("seal", run_name="seal {at}")
def seal(
    ref: RunRef, at: StageAt, shards: list[outcomes.ShardOutcome], seconds: float = 0.0
) -> DatasetRef | State[Any]:
    """Write a sharded stage's manifest, of its shards in their order; without shards the stage holds.

    A benchmark may fail as much as it will: it has a limit of its own, above which there is no figure, and no decision
    reads it; who started the run is told at its end (`tapir_core.summary.require_figures`).
    """
    _tag_task_run(f"stage-{at.name}")
    run = RunFolder(ref)
    if not shards and (held := run.holds(at)) is not None:
        return cached(held)
    made = outcomes.made_of([each.rows for each in shards], shards)
    if lacking := made.missing.get("budget"):
        raise BudgetReached(_budget_text(run, at, made, lacking))
    outcomes.check_failed(at, made, run.config)
    outcomes.check_missing(at, made, run.config.calls.max_missing_share)
    current(run).check_lease()
    sealed = run.seal(at, made.rows, accepted_missing=made.missing, counts={**made.counts, "seconds": seconds})
    current(run).forget_tables()
    return sealed


def cached(held: DatasetRef) -> State[Any]:
    """The state of a task run whose stage holds already: the name by which Prefect shows what it has in its cache."""
    return states.Completed(name="Cached", message=f"{held.path} holds: {held.rows} rows", data=held)


def _budget_text(run: RunFolder, at: StageAt, made: outcomes.StageOutcome, left: int) -> str:
    """What was reached, what is done, what is left of the stage and what it would cost at the price so far."""
    calls, done = current(run).calls, sum(part.rows for part in made.rows)
    # Of a stage that asks in several roles the price of one says nothing.
    spent = calls.paid().get(at.stage.roles[0]) if len(at.stage.roles) == 1 else None
    asked = left * (run.config.teacher.answers_per_prompt if at.stage is TEACH else 1)
    cost = f", about {asked * spent.usd / spent.requests:,.2f} USD at the price so far" if spent and spent.usd else ""
    return (
        f"{calls.spend().cap_reached}. {at}: {done} rows are done, {left} are left{cost}. Nothing more is sent; what "
        "was received is stored. Raise the cap and run the same command again: it asks only for what is left."
    )


def _tells_more(record: logging.LogRecord) -> bool:
    """Whether a line says more than that a shard is done, which its task run says: a run has thousands of them."""
    done = record.getMessage().startswith("Finished in state Completed")
    return not (done and any(work.in_shards for work in _WORK.get(getattr(record, "task_name", ""), ())))


logging.getLogger("prefect.task_runs").addFilter(_tells_more)


def _of_wave(stage: Stage) -> str:
    """What tells the task runs of a wave's steps apart: a round has several waves."""
    return " (wave {at.wave})" if stage in WAVE else ""
