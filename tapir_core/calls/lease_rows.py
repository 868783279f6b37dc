"""Rows of the `leases` table: take, keep, check, read, drop. Who may take what is decided in lease.py."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError as DatabaseError

from tapir_core.calls.store_tables import insert_or_ignore, leases, writing

__all__ = ["DatabaseError", "beat", "database_time", "drop", "is_held", "read", "read_all", "take"]


def take(
    engine: Engine, run_key: str, token: str, holder: dict[str, Any], may_take: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
    """Write the lease for ``token`` if the row is free or ``may_take`` says so of its holder.

    Returns:
        The row of the holder that keeps it, with `silent`, the time since its last heartbeat; nothing when taken.
    """
    with writing(engine) as connection:
        now = database_time(connection)
        mine = {"run_key": run_key, "token": token, **holder, "since": now, "heartbeat": now}
        connection.execute(insert_or_ignore(engine, leases).values(mine))
        row = connection.execute(select(leases).where(leases.c.run_key == run_key).with_for_update()).mappings().one()
        if row["token"] == token:
            return None
        held = {**row, "silent": now - row["heartbeat"]}
        if not may_take(held):
            return held
        connection.execute(update(leases).where(leases.c.run_key == run_key).values(mine))
        return None


def beat(engine: Engine, run_key: str, token: str) -> None:
    """Renew the heartbeat of a lease that is still ours."""
    with writing(engine) as connection:
        connection.execute(update(leases).where(*_ours(run_key, token)).values(heartbeat=database_time(connection)))


def is_held(engine: Engine, run_key: str, token: str) -> bool:
    """Whether the lease is still ours."""
    with engine.connect() as connection:
        return connection.scalar(select(leases.c.token).where(*_ours(run_key, token))) is not None


def read(engine: Engine, run_key: str) -> dict[str, Any] | None:
    """The row of who holds the lease, with `silent`, the time since its last heartbeat; nothing when it is free."""
    with engine.connect() as connection:
        row = connection.execute(select(leases).where(leases.c.run_key == run_key)).mappings().one_or_none()
        return None if row is None else {**row, "silent": database_time(connection) - row["heartbeat"]}


def read_all(connection: Connection) -> list[dict[str, Any]]:
    """The row of every run that is driven, with `silent`, the time since its last heartbeat."""
    now = database_time(connection)
    return [{**row, "silent": now - row["heartbeat"]} for row in connection.execute(select(leases)).mappings()]


def drop(engine: Engine, run_key: str, token: str) -> None:
    """Delete the lease if it is still ours."""
    with writing(engine) as connection:
        connection.execute(delete(leases).where(*_ours(run_key, token)))


def _ours(run_key: str, token: str) -> tuple[Any, Any]:
    return leases.c.run_key == run_key, leases.c.token == token


def database_time(connection: Connection) -> datetime:
    """The database's UTC time, without zone, as the columns keep it."""
    if connection.dialect.name == "postgresql":
        now: datetime = connection.execute(select(func.timezone("UTC", func.clock_timestamp()))).scalar_one()
        return now
    return datetime.fromisoformat(connection.exec_driver_sql("SELECT CURRENT_TIMESTAMP").scalar_one())
