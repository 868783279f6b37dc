"""Rows of the `replicas` table: insert, take, keep, read, drop. What they mean is said in replicas.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from tapir_core.calls.lease_rows import database_time
from tapir_core.calls.store_tables import leases, replicas, writing
from tapir_core.errors import TapirError

__all__ = ["change", "dismiss", "insert", "read", "remove", "silence_of_driver", "take"]


def insert(engine: Engine, replica: str, run_key: str, number: int, checkpoint: str) -> None:
    """A new row that no process has."""
    row = {"id": replica, "run_key": run_key, "round": number, "checkpoint": checkpoint}
    with _writing(engine) as connection:
        heartbeat = database_time(connection)
        unserved = {"base_url": "", "concurrency": 0, "leaving": False, "heartbeat": heartbeat}
        connection.execute(replicas.insert().values({**row, **unserved}))


def take(engine: Engine, replica: str, run_key: str, holder: dict[str, Any]) -> bool:
    """Give a row that no process has to ``holder``; whether there was one."""
    free = (replicas.c.id == replica, replicas.c.run_key == run_key, replicas.c.host.is_(None))
    with _writing(engine) as connection:
        values = {**holder, "heartbeat": database_time(connection)}
        return connection.execute(update(replicas).where(*free).values(values)).rowcount == 1


def change(engine: Engine, replica: str, **values: Any) -> None:
    """Write values into a row, and a heartbeat unless one is among them."""
    with _writing(engine) as connection:
        values.setdefault("heartbeat", database_time(connection))
        connection.execute(update(replicas).where(replicas.c.id == replica).values(values))


def read(engine: Engine, run_key: str) -> list[dict[str, Any]]:
    """The rows of a run by id, each with `silent`, the time since its heartbeat."""
    with _reading(engine) as connection:
        now = database_time(connection)
        found = connection.execute(select(replicas).where(replicas.c.run_key == run_key).order_by(replicas.c.id))
        return [{**row, "silent": now - row["heartbeat"]} for row in found.mappings()]


def dismiss(engine: Engine, run_key: str) -> list[str]:
    """Mark the rows of a run as leaving and delete those that no process has; gives the ids of the latter."""
    ours = replicas.c.run_key == run_key
    free = (ours, replicas.c.host.is_(None))
    with _writing(engine) as connection:
        untaken = list(connection.scalars(select(replicas.c.id).where(*free)))
        connection.execute(delete(replicas).where(*free))
        connection.execute(update(replicas).where(ours).values(leaving=True))
    return untaken


def remove(engine: Engine, replica: str) -> None:
    """Delete a row."""
    with _writing(engine) as connection:
        connection.execute(delete(replicas).where(replicas.c.id == replica))


def silence_of_driver(engine: Engine, run_key: str) -> timedelta | None:
    """Time since the last heartbeat of the run's lease; nothing when nobody holds it."""
    with _reading(engine) as connection:
        beat = connection.scalar(select(leases.c.heartbeat).where(leases.c.run_key == run_key))
        return None if beat is None else database_time(connection) - beat


@contextmanager
def _writing(engine: Engine) -> Iterator[Connection]:
    with _translated(), writing(engine) as connection:
        yield connection


@contextmanager
def _reading(engine: Engine) -> Iterator[Connection]:
    with _translated(), engine.connect() as connection:
        yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip()
        raise TapirError(f"the call store cannot be reached: {reason}; check that its server runs") from error
