"""The schema's versions: what must be done to a store that an earlier version of tapir wrote.

`tables.py` says what the newest schema is; a new store is made of it at once. A step changes what is there already.
"""

from collections.abc import Callable

from sqlalchemy import Connection, func, inspect, select, text

from tapir_core.calls.store.tables import answers, insert_or_ignore, meta, metadata, spending
from tapir_core.errors import ConfigError

__all__ = ["SCHEMA_VERSION", "migrate"]

_LOCK = 0x7A917
"""PostgreSQL's advisory lock: CREATE TABLE IF NOT EXISTS of two processes at once can collide there."""


def migrate(connection: Connection, shown: str) -> None:
    """Make every table that lacks, and bring a store of an earlier version to the newest.

    Raises:
        ConfigError: a newer version of tapir wrote the store that ``shown`` names.
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


_STEPS: tuple[Callable[[Connection], None], ...] = (_sum_what_was_spent, _address_flow_runs)
"""Step i leads from version i + 1 to i + 2."""

SCHEMA_VERSION = str(len(_STEPS) + 1)
