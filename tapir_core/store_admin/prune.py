"""Removing rows of a store by age, model, identity, role or status, after saying who would ask again at which cost.

Limits: the store says who asked first, not who used an answer later. A run that is whole asks nothing again, unless one
of its stages is redone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, delete, func, select

from tapir_core.calls.store_tables import answers
from tapir_core.config import ModelIdentity, RunConfig
from tapir_core.data.dataset import DatasetRef
from tapir_core.errors import ConfigError, TapirError
from tapir_core.run_folder import RunFolder, runs_of
from tapir_core.stages import StageAt, asked_in_roles, plan
from tapir_core.store_admin.opening import RowFilter, changing, reading
from tapir_core.store_admin.stats import text_bytes

ROWS_PER_COMMIT = 2_000
"""Removed in one transaction, so that a run at work waits for milliseconds only."""


@dataclass(frozen=True, slots=True)
class DoomedRows:
    """Rows of one role, model, identity and first asker that would go."""

    role: str
    model: str
    identity: str
    run: str
    """The run that asked first."""
    rows: int
    bytes: int
    """Of texts and raw replies."""
    tokens: int
    """Prompt and completion tokens that were paid for them."""
    usd: float
    """What they cost, and asking again would cost at those prices."""


@dataclass(frozen=True, slots=True)
class RunAtStake:
    """A run of the root that rows of the store belong to."""

    run: str
    rows: int
    """Rows among them that it asked for first."""
    stages: tuple[str, ...]
    """Stages still to do that would ask for such rows again; none when the run is whole."""
    unreadable: str = ""
    """Why its stages cannot be told; empty when they can."""


def plan_prune(engine: Engine, chosen: RowFilter) -> list[DoomedRows]:
    """What `prune_answers` would remove.

    Raises:
        ConfigError: no condition is set.
        TapirError: the store cannot be read.
    """
    _check_chosen(chosen)
    names = (answers.c.role, answers.c.model, answers.c.identity, answers.c.run)
    query = (
        select(
            *names,
            func.count(),
            func.sum(text_bytes(engine)),
            func.sum(answers.c.prompt_tokens + answers.c.completion_tokens),
            func.sum(answers.c.usd),
        )
        .where(*chosen.conditions())
        .group_by(*names)
        .order_by(*names)
    )
    with reading(engine) as connection:
        return [
            DoomedRows(role, model, identity, run, rows, int(size), int(tokens), float(usd))
            for role, model, identity, run, rows, size, tokens, usd in connection.execute(query)
        ]


def prune_answers(engine: Engine, chosen: RowFilter) -> int:
    """Remove the rows that ``chosen`` meets; gives how many went. What is asked for again is paid again.

    Raises:
        ConfigError: no condition is set.
        TapirError: the store cannot be written; what was removed before stays removed.
    """
    _check_chosen(chosen)
    removed, last = 0, ""
    while True:
        page = select(answers.c.key).where(*chosen.conditions(), answers.c.key > last)
        with reading(engine) as connection:
            keys = list(connection.execute(page.order_by(answers.c.key).limit(ROWS_PER_COMMIT)).scalars())
        if not keys:
            return removed
        with changing(engine) as connection:
            removed += connection.execute(delete(answers).where(answers.c.key.in_(keys), *chosen.conditions())).rowcount
        last = keys[-1]


def runs_at_stake(root: str, doomed: Sequence[DoomedRows]) -> list[RunAtStake]:
    """The runs of ``root`` that asked for rows of ``doomed``, or would ask for such rows when they go on."""
    found = []
    for run in runs_of(root):
        rows = sum(each.rows for each in doomed if each.run == run.ref.name)
        try:
            stages = _waiting(run, doomed)
        except (TapirError, ValueError, TypeError) as exc:
            found.append(RunAtStake(run.ref.name, rows, (), str(exc).splitlines()[0]))
            continue
        if rows or stages:
            found.append(RunAtStake(run.ref.name, rows, tuple(stages)))
    return found


def _check_chosen(chosen: RowFilter) -> None:
    if chosen.is_empty:
        ways = "--older-than 30d, --model, --identity, --role or --status"
        raise ConfigError(f"nothing says which rows to prune; give {ways}")


def _waiting(run: RunFolder, doomed: Sequence[DoomedRows]) -> list[str]:
    roles = {each.role for each in doomed if _may_use(run, each)}
    seen: dict[StageAt, DatasetRef | None] = {}
    asking = [at for at in plan(run.config) if roles.intersection(at.stage.roles)]
    return [str(at) for at in asking if run.holds(at, seen) is None]


def _may_use(run: RunFolder, rows: DoomedRows) -> bool:
    """Whether the run asked for them first, or asks the same teacher or judge."""
    asked = ModelIdentity(rows.model, rows.identity)
    return rows.run == run.ref.name or asked in _voices(run.config).get(rows.role, ())


def _voices(config: RunConfig) -> dict[str, tuple[ModelIdentity, ...]]:
    """Who answers by role; the student's identity is its checkpoint, which is not looked at."""
    teacher = config.teacher.endpoint.answers_as("teacher")
    asked = (config.judge_of(each) for each in config.evaluation.judged.values())
    benchmarks = tuple(endpoint.answers_as("judge") for endpoint in asked)
    return {
        **{role: (teacher,) for role, asks in asked_in_roles().items() if asks == "teacher"},
        "judge": config.judge.identities,
        "benchmark": benchmarks,
    }
