"""Statistics of a store; removing rows, and giving their room back.

Before rows are removed, the user learns which runs would ask again and at what cost. Limits: the store knows which run
asked first, not which used an answer later. A complete run asks nothing again, unless one of its stages is redone.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tapir_core.calls.store_rows import read_reuse, short_name
from tapir_core.calls.store_tables import BUSY_SECONDS, answers, shown_url
from tapir_core.config import ModelIdentity, RunConfig
from tapir_core.data.dataset import DatasetRef
from tapir_core.errors import TapirError
from tapir_core.run_folder import RunFolder, runs_of
from tapir_core.stages import StageAt, asked_in_roles, plan
from tapir_core.statistics import grouped
from tapir_core.store_admin.rows import changing, reading

ROWS_PER_COMMIT = 2_000
"""Rows removed in one transaction, so that a working run waits for milliseconds only."""


@dataclass(frozen=True, slots=True)
class StoreSize:
    """Size of the whole store, in bytes."""

    bytes: int
    """SQLite: the file and its write-ahead log. PostgreSQL: the table of answers with its indices."""
    free_bytes: int | None
    """Part of it that deleted rows left and new rows will fill; None if the database does not say."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """The result of giving back room."""

    bytes_before: int
    bytes_after: int
    seconds: float
    obstacle: str
    """Why the file was not rewritten; empty if it was."""


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """All rows of one role, model, identity and prompt version."""

    role: str
    model: str
    identity: str
    prompt_version: str
    statuses: Mapping[str, int]
    """Rows by `answer` or kind of failure."""
    bytes: int
    """Size of texts and raw replies, uncompressed."""
    prompt_tokens: int
    completion_tokens: int
    usd: float
    """Price of the rows when they were paid."""
    first: datetime
    """UTC; when the oldest row was stored."""
    last: datetime
    """UTC; when the newest row was stored."""
    reused: int
    """Requests that its rows answered after they were stored."""

    @property
    def rows(self) -> int:
        """Rows of any status."""
        return sum(self.statuses.values())

    @property
    def reuse_share(self) -> float:
        """Share of requests that were answered from the store."""
        return self.reused / (self.reused + self.rows)


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Statistics of a store at one moment."""

    store: str
    """Its URL, without a password."""
    size: StoreSize
    groups: tuple[AnswerGroup, ...]

    @property
    def rows(self) -> int:
        """Rows of any status."""
        return sum(group.rows for group in self.groups)

    @property
    def statuses(self) -> dict[str, int]:
        """Rows by `answer` or kind of failure, the most frequent first."""
        return dict(sum((Counter(group.statuses) for group in self.groups), start=Counter[str]()).most_common())

    def as_json(self) -> dict[str, Any]:
        """The groups as plain JSON, with totals."""
        groups = [
            {
                **asdict(group),
                "rows": group.rows,
                "reuse_share": group.reuse_share,
                "first": group.first.isoformat(),
                "last": group.last.isoformat(),
            }
            for group in self.groups
        ]
        return {
            "store": self.store,
            **asdict(self.size),
            "rows": self.rows,
            "statuses": self.statuses,
            **{
                name: sum(group[name] for group in groups)
                for name in ("prompt_tokens", "completion_tokens", "usd", "reused")
            },
            "first": min((group["first"] for group in groups), default=None),
            "last": max((group["last"] for group in groups), default=None),
            "groups": groups,
        }


def gather_stats(engine: sa.Engine) -> StoreStats:
    """Statistics of a store. The database reads every row once.

    Raises:
        TapirError: the database cannot be read.
    """
    names = (answers.c.role, answers.c.model, answers.c.identity, answers.c.prompt_version)
    with reading(engine) as connection:
        named = grouped(
            ((row.role, row.model, row.identity, row.prompt_version), row)
            for row in connection.execute(_sums(engine, *names, answers.c.status))
        )
        reused = read_reuse(connection)
    return StoreStats(
        shown_url(engine.url),
        store_size(engine),
        groups=tuple(
            _group(name, rows, reused.get((*name[:2], short_name(name[2]), name[3]), 0))
            for name, rows in sorted(named.items())
        ),
    )


def store_size(engine: sa.Engine) -> StoreSize:
    """The current size of a store.

    Raises:
        TapirError: the database cannot be read.
    """
    with reading(engine) as connection:
        if engine.dialect.name == "postgresql":
            return StoreSize(int(connection.scalar(sa.select(sa.func.pg_total_relation_size(answers.name))) or 0), None)
        pages = "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size"
        free_bytes = int(connection.exec_driver_sql(pages).scalar_one())
    path = Path(str(engine.url.database))
    files = [path, path.with_name(f"{path.name}-wal")]
    return StoreSize(sum(file.stat().st_size for file in files if file.exists()), free_bytes)


def compact(engine: sa.Engine) -> Compacted:
    """Rewrite an SQLite store without the room that deleted rows left.

    Takes the time and temporarily the disk space of copying the rest; writers wait meanwhile. If another process
    prevents it, the file stays as it is and `obstacle` says why. PostgreSQL re-uses the room itself.
    """
    before = store_size(engine).bytes
    if engine.dialect.name == "postgresql":
        return Compacted(before, before, 0.0, "PostgreSQL re-uses the room; VACUUM FULL answers gives it back")
    started, obstacle = time.monotonic(), ""
    try:
        with closing(sqlite3.connect(str(engine.url.database), timeout=BUSY_SECONDS)) as database:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        obstacle = f"{error}: another process uses the store, or the disk lacks room for a copy"
    return Compacted(before, store_size(engine).bytes, time.monotonic() - started, obstacle)


def _sums(engine: sa.Engine, *names: sa.Column[Any]) -> sa.Select[Any]:
    """Sums of all rows with the same values in the columns ``names``."""

    def bytes_of(column: sa.Column[Any]) -> sa.ColumnElement[int]:
        # Of text, SQLite counts the characters up to the first NUL.
        in_sqlite = sa.func.length(sa.cast(column, sa.LargeBinary))
        return sa.func.octet_length(column) if engine.dialect.name == "postgresql" else in_sqlite

    size = bytes_of(answers.c.text) + sa.func.coalesce(bytes_of(answers.c.raw), 0)
    return sa.select(
        *names,
        sa.func.count().label("rows"),
        sa.func.sum(size).label("bytes"),
        sa.func.sum(answers.c.prompt_tokens).label("prompt_tokens"),
        sa.func.sum(answers.c.completion_tokens).label("completion_tokens"),
        sa.func.sum(answers.c.usd).label("usd"),
        sa.func.min(answers.c.created).label("first"),
        sa.func.max(answers.c.created).label("last"),
    ).group_by(*names)


def _group(name: tuple[str, str, str, str], rows: Sequence[sa.Row[Any]], reused: int) -> AnswerGroup:
    """One group of rows that differ only in their status."""
    return AnswerGroup(
        *name,
        statuses={row.status: row.rows for row in rows},
        bytes=sum(int(row.bytes) for row in rows),
        prompt_tokens=sum(int(row.prompt_tokens) for row in rows),
        completion_tokens=sum(int(row.completion_tokens) for row in rows),
        usd=sum(float(row.usd) for row in rows),
        first=min(row.first for row in rows),
        last=max(row.last for row in rows),
        reused=reused,
    )


@dataclass(frozen=True, slots=True)
class DoomedRows:
    """Rows of one role, model, identity and run that would be removed."""

    role: str
    model: str
    identity: str
    run: str
    """The first run that asked."""
    rows: int
    bytes: int
    """Size of texts and raw replies."""
    tokens: int
    """Prompt and completion tokens that were paid for them."""
    usd: float
    """What they cost, and what asking again would cost at those prices."""


@dataclass(frozen=True, slots=True)
class RunAtStake:
    """A run of the root that needs rows which would be removed."""

    run: str
    rows: int
    """Those of the rows that it asked for first."""
    stages: tuple[str, ...]
    """Unfinished stages that would ask for such rows again; empty if the run is complete."""
    unreadable: str = ""
    """Why its stages are unknown; empty if they are known."""


def plan_prune(engine: sa.Engine, chosen: sa.ColumnElement[bool]) -> list[DoomedRows]:
    """What `prune_answers` would remove.

    Raises:
        TapirError: the store cannot be read.
    """
    names = (answers.c.role, answers.c.model, answers.c.identity, answers.c.run)
    with reading(engine) as connection:
        return [
            DoomedRows(
                *(row.role, row.model, row.identity, row.run, row.rows, int(row.bytes)),
                tokens=int(row.prompt_tokens + row.completion_tokens),
                usd=float(row.usd),
            )
            for row in connection.execute(_sums(engine, *names).where(chosen).order_by(*names))
        ]


def prune_answers(engine: sa.Engine, chosen: sa.ColumnElement[bool]) -> int:
    """Remove the rows that ``chosen`` (`rows_where`) selects; returns how many. Asking for them again is paid again.

    Raises:
        TapirError: the store cannot be written; rows removed before stay removed.
    """
    removed, last = 0, ""
    while True:
        page = sa.select(answers.c.key).where(chosen, answers.c.key > last).order_by(answers.c.key)
        with reading(engine) as connection:
            keys = connection.scalars(page.limit(ROWS_PER_COMMIT)).all()
        if not keys:
            return removed
        with changing(engine) as connection:
            removed += connection.execute(sa.delete(answers).where(answers.c.key.in_(keys), chosen)).rowcount
        last = keys[-1]


def runs_at_stake(root: str, doomed: Sequence[DoomedRows]) -> list[RunAtStake]:
    """The runs of ``root`` that asked for rows of ``doomed``, or would ask for such rows when resumed."""
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


def _waiting(run: RunFolder, doomed: Sequence[DoomedRows]) -> list[str]:
    """Unfinished stages that would ask again: for rows that the run asked first, or of the same teacher or judge."""
    identities = _identities(run.config)
    roles = {
        each.role
        for each in doomed
        if each.run == run.ref.name or ModelIdentity(each.model, each.identity) in identities.get(each.role, ())
    }
    seen: dict[StageAt, DatasetRef | None] = {}
    return [str(at) for at in plan(run.config) if roles.intersection(at.stage.roles) and run.holds(at, seen) is None]


def _identities(config: RunConfig) -> dict[str, tuple[ModelIdentity, ...]]:
    """Who answers, by role; without the student, whose identity is its checkpoint."""
    teacher, asked = config.teacher.endpoint.answers_as("teacher"), config.evaluation.judged.values()
    return {
        **{role: (teacher,) for role, asks in asked_in_roles().items() if asks == "teacher"},
        "judge": config.judge.identities,
        "benchmark": tuple(config.judge_of(each).answers_as("judge") for each in asked),
    }
