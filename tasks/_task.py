"""The project's own Prefect tasks: the work, then one write at the end. A stage that holds is no task (flows/steps.py).

`@stage_task` and `@shard_task` declare the work of a stage; `seal` is what follows the shards of one.

Nobody imports Prefect's ``task`` but this module. A task takes a `RunRef`, a round number and plain values, and returns
a reference, so it can run on any worker that reaches the run root. Prefect keeps that reference as JSON under the task
run's id, for who asks the API for it; no other task run finds it. The manifest is the only evidence that a stage is
done, so a kill between the two serves nothing stale and costs nothing twice.

A task run gets its tags of run, round and stage once it works, not when it begins: one that begins with tags makes
Prefect ask its server for a concurrency limit of each, and a server on SQLite that is writing other task runs down
answers that its database is locked, for which Prefect's client sleeps for two seconds (3.8): more than most stages
work. Limits: a task run shows these tags when it has ended or failed once, and a concurrency limit of such a tag holds
nothing back. A tag that should, such as `gpu`, is the task's own.
"""

import importlib
import logging
import pkgutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache, wraps
from pathlib import Path
from typing import Any

import polars as pl
from prefect import task as prefect_task
from prefect.context import TagsContext, TaskRunContext
from prefect.states import Cancelled

from tapir_core.calls import Spend
from tapir_core.config import RunConfig
from tapir_core.data.dataset import DatasetRef, read_part, write_part
from tapir_core.errors import BudgetReached, ConfigError, Stopped
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import WAVE, Stage, StageAt, always
from tasks.outcomes import Piece, ShardIncomplete, ShardOutcome, Worked, check_failed, check_missing
from tasks.runtime import current

Plan = Callable[[RunFolder, StageAt], pl.DataFrame]
"""All rows that a sharded stage works on, in their order."""
When = Callable[[RunConfig, StageAt], bool]


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
            _tag_task_run(f"stage-{name}", *tags)
            try:
                return function(*args, **kwargs)
            except Stopped as stopped:
                return Cancelled(message=str(stopped))

        return settings(body)

    return wrap


_LATE_TAGS: ContextVar[frozenset[str]] = ContextVar("late_tags", default=frozenset())


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
    context = TaskRunContext.get()
    if context is not None:
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


def stage_task(stage: Stage, *, when: When = always) -> Callable[[Callable[[RunFolder, StageAt], Worked]], Any]:
    """The work of a stage in one task: ``function(run, at)`` makes its rows."""

    def wrap(function: Callable[[RunFolder, StageAt], Worked]) -> Any:
        @does(stage, when=when)
        @project_task(stage.name, run_name=stage.name + _of_wave(stage))
        def run_stage(ref: RunRef, at: StageAt) -> DatasetRef:
            run, started = RunFolder(ref), time.monotonic()
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
    stage: Stage, *, plan: Plan | None = None, when: When = always
) -> Callable[[Callable[[RunFolder, StageAt, pl.DataFrame], Worked]], Any]:
    """The work of a stage in shards: ``function(run, at, rows)`` does one.

    Its rows are a piece of the stage's ``plan``, or, of a stage whose shards follow another's, the part that the shard
    with its index wrote. It writes its own part, then returns a `ShardOutcome`, or raises `ShardIncomplete` when some
    outcomes are retryable.

    Raises:
        TypeError: it has both, or neither.
    """
    if (plan is None) != bool(stage.shards_of):
        raise TypeError(f"stage {stage.name!r}: give its shards a plan=, or its declaration shards_of=, and not both")

    def wrap(function: Callable[[RunFolder, StageAt, pl.DataFrame], Worked]) -> Any:
        named = f"{stage.name} {{piece.index:04d}}/{{piece.of:04d}}{_of_wave(stage)}"

        @does(stage, when=when, in_shards=True, plan=plan)
        @project_task(stage.name, run_name=named, tags=("shard",))
        def run_shard(
            ref: RunRef, at: StageAt, piece: Piece, after: ShardOutcome | ShardIncomplete | ConfigError | None = None
        ) -> ShardOutcome:
            run = RunFolder(ref)
            with current(run).progress.attempt(at, piece.index):
                if plan is None:
                    assert after is not None
                    if isinstance(after, ConfigError):
                        raise after
                    part = (after.outcome if isinstance(after, ShardIncomplete) else after).part
                    rows = read_part(run.storage, replace(at, name=stage.shards_of).folder, part)
                else:
                    rows = plan(run, at)[piece.start : piece.stop]
                worked = function(run, at, rows)
                written = write_part(run.storage, at.folder, worked.rows.select(stage.columns))
            outcome = ShardOutcome(
                piece.index, written, worked.counts, worked.missing, worked.failed, worked.asked, worked.samples
            )
            if "stopped" in outcome.missing:
                if why := current(run).progress.given_up.get(stage.asks):
                    raise ConfigError(why)
                raise Stopped(f"{worked.rows.height} rows are done and stored; the next start asks for the rest")
            if outcome.missing:
                raise ShardIncomplete(at, outcome)
            current(run).progress.shard_done(at)
            return outcome

        return run_shard

    return wrap


@project_task("seal", run_name="seal {at}")
def seal(ref: RunRef, at: StageAt, outcomes: list[ShardOutcome], seconds: float) -> DatasetRef:
    """Write a sharded stage's manifest, in the order of its shards.

    A benchmark may fail as much as it will: it has a limit of its own, above which there is no figure, and no decision
    reads it; who started the run is told at its end (`tapir_core.reporting.benchmarks.require_figures`).
    """
    _tag_task_run(f"stage-{at.name}")
    run = RunFolder(ref)
    ordered = sorted(outcomes, key=lambda outcome: outcome.index)
    missing = sum((Counter(outcome.missing) for outcome in ordered), Counter[str]())
    counts = sum((Counter(outcome.counts) for outcome in ordered), Counter[str]())
    parts = [outcome.part for outcome in ordered]
    if missing["budget"]:
        calls, rows = current(run).calls, sum(part.rows for part in parts)
        # Of a stage that asks in several roles the price of one says nothing.
        spent = calls.paid().get(at.stage.roles[0]) if len(at.stage.roles) == 1 else None
        raise BudgetReached(_budget_text(at, calls.cap_reached, rows, missing["budget"], spent))
    check_failed(at, ordered, run.config)
    check_missing(at, ordered, run.config.calls.max_missing_share)
    current(run).check_lease()
    sealed = run.seal(at, parts, accepted_missing=dict(missing), counts={**counts, "seconds": seconds})
    current(run).forget_tables()
    return sealed


def _budget_text(at: StageAt, cap: str, done: int, left: int, spent: Spend | None) -> str:
    """What was reached, what is done, what is left of the stage and what it would cost at the price so far."""
    cost = f", about {left * spent.usd / spent.requests:,.2f} USD at the price so far" if spent and spent.usd else ""
    return (
        f"{cap}. {at}: {done} rows are done, {left} are left{cost}. Nothing more is sent; what was received is stored. "
        "Raise the cap and run the same command again: it asks only for what is left."
    )


def _tells_more(record: logging.LogRecord) -> bool:
    """Whether a line says more than that a shard is done, which its task run says: a run has thousands of them."""
    done = record.getMessage().startswith("Finished in state Completed")
    return not (done and any(work.in_shards for work in _WORK.get(getattr(record, "task_name", ""), ())))


logging.getLogger("prefect.task_runs").addFilter(_tells_more)


def _of_wave(stage: Stage) -> str:
    """What tells the task runs of a wave's steps apart: a round has several waves."""
    return " (wave {at.wave})" if stage in WAVE else ""
