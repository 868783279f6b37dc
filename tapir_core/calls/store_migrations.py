"""The schema's versions: what must be done to a store that an earlier version of tapir wrote.

`tables.py` says what the newest schema is; a new store is made of it at once. A step changes what is there already.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Connection, func, inspect, select, text

from tapir_core.calls.store_tables import (
    answers,
    attempts,
    claims,
    insert_or_add,
    insert_or_ignore,
    meta,
    metadata,
    spending,
)
from tapir_core.errors import ConfigError

__all__ = ["SCHEMA_VERSION", "migrate"]

_LOCK = 0x7A917
"""PostgreSQL's advisory lock: CREATE TABLE IF NOT EXISTS of two processes at once can collide there."""


def migrate(connection: Connection, shown: str) -> None:
    """Make every table that lacks, and bring a store of an earlier version to the newest.

    Raises:
        ConfigError: a newer version of tapir wrote the store that ``shown`` names.
        RunBusy: a process of an earlier version works on it.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    metadata.create_all(connection)
    newest = {"name": "schema_version", "value": SCHEMA_VERSION}
    connection.execute(insert_or_ignore(connection.engine, meta).values(newest))
    found = int(connection.scalar(select(meta.c.value).where(meta.c.name == "schema_version")) or 0)
    if found > int(SCHEMA_VERSION):
        raise ConfigError(
            f"the call store {shown} has schema version {found}, this version of tapir knows {SCHEMA_VERSION}. "
            "Use the tapir version that wrote it, or another calls.store_url."
        )
    for step in _STEPS[found - 1 :]:
        step(connection)
    connection.execute(meta.update().where(meta.c.name == "schema_version").values(value=SCHEMA_VERSION))


def _sum_what_was_spent(connection: Connection) -> None:
    """From 1 to 2: `spending` begins with what the stored answers cost."""
    sums = select(
        answers.c.run,
        answers.c.role,
        func.sum(answers.c.attempts),
        func.sum(answers.c.prompt_tokens),
        func.sum(answers.c.completion_tokens),
        func.sum(answers.c.usd),
        text("0.0"),
    ).group_by(answers.c.run, answers.c.role)
    connection.execute(spending.insert().from_select([column.name for column in spending.columns], sums))


def _address_flow_runs(connection: Connection) -> None:
    """From 2 to 3: a lease says which flow run holds it. A store without leases has just got the newest table."""
    if "flow_run" not in [column["name"] for column in inspect(connection).get_columns("leases")]:
        connection.execute(text("ALTER TABLE leases ADD COLUMN flow_run TEXT"))


def _book_attempts(connection: Connection) -> None:
    """From 3 to 4: what is reserved stands in `attempts` and is spent until it is settled; a claim is a claim alone.

    Of the old reservations those of batches at a provider are kept, by the names of their runs as all spending so far:
    a run takes its own over when it is opened (attempt_rows.adopt).

    Raises:
        RunBusy: a process that knows only the old tables works on the store.
    """
    from tapir_core.calls.lease import check_undriven

    if "tokens" not in [column["name"] for column in inspect(connection).get_columns("claims")]:
        return  # it had no claims, and has just got the newest table
    check_undriven(connection)
    owed = connection.execute(text(_OWED)).all()
    connection.execute(text("DROP TABLE claims"))
    metadata.create_all(connection, [claims])
    if "attempt" not in [column["name"] for column in inspect(connection).get_columns("batch_rows")]:
        connection.execute(text("ALTER TABLE batch_rows ADD COLUMN attempt BIGINT NOT NULL DEFAULT 0"))
    now = datetime.now(UTC).replace(tzinfo=None)
    for row in owed:
        attempt = secrets.randbits(63)
        amounts = {"prompt_tokens": row.tokens, "completion_tokens": 0, "usd": row.usd}
        asked = {"id": attempt, "run": row.run, "role": row.role, "key": row.key, "outcome": "", "unknown": True}
        connection.execute(attempts.insert().values(**asked, **amounts, sent=now))
        connection.execute(claims.insert().values(key=row.key, holder=row.holder))
        own = {"attempt": attempt, "key": row.key}
        connection.execute(text("UPDATE batch_rows SET attempt = :attempt WHERE key = :key"), own)
        reserved = {"run": row.run, "role": row.role, "requests": 1, "seconds": 0.0, **amounts}
        connection.execute(insert_or_add(connection.engine, spending), reserved)


_OWED = """
    SELECT claims.key, claims.holder, claims.run, claims.role, claims.tokens, claims.usd
    FROM claims JOIN batch_rows ON batch_rows.key = claims.key AND batch_rows.batch = claims.holder
"""

_STEPS: tuple[Callable[[Connection], None], ...] = (_sum_what_was_spent, _address_flow_runs, _book_attempts)
"""Step i leads from version i + 1 to i + 2."""

SCHEMA_VERSION = str(len(_STEPS) + 1)
