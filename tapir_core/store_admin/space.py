"""How much room a store takes, and giving back what deleted rows have left."""

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, func, select

from tapir_core.calls.store_tables import answers
from tapir_core.store_admin.opening import reading

__all__ = ["Compacted", "StoreSize", "compact", "store_size"]


@dataclass(frozen=True, slots=True)
class StoreSize:
    """Room of the whole store, in bytes."""

    bytes: int
    """SQLite: the file and its write-ahead log. PostgreSQL: the table of answers with its indices."""
    free_bytes: int | None
    """Part of it that deleted rows have left and new rows will fill; nothing where the database does not say."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What giving back room brought."""

    bytes_before: int
    bytes_after: int
    seconds: float
    obstacle: str
    """Why the file was not rewritten; empty when it was."""


def store_size(engine: Engine) -> StoreSize:
    """The room that the store takes now.

    Raises:
        TapirError: the database cannot be read.
    """
    with reading(engine) as connection:
        if engine.dialect.name == "postgresql":
            return StoreSize(int(connection.scalar(select(func.pg_total_relation_size(answers.name))) or 0), None)
        page_bytes = int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
        free_pages = int(connection.exec_driver_sql("PRAGMA freelist_count").scalar_one())
    path = Path(str(engine.url.database))
    files = [path, path.with_name(f"{path.name}-wal")]
    return StoreSize(sum(file.stat().st_size for file in files if file.exists()), free_pages * page_bytes)


def compact(engine: Engine) -> Compacted:
    """Rewrite an SQLite store without the room that deleted rows left.

    Takes the time and, for that time, the disk space of copying what remains; whoever writes to the store waits
    meanwhile. Another process at work can be in the way: then the file stays as it is, which `obstacle` says.
    PostgreSQL re-uses the room itself, and is left alone.
    """
    before = store_size(engine).bytes
    if engine.dialect.name == "postgresql":
        return Compacted(before, before, 0.0, "PostgreSQL re-uses the room; VACUUM FULL answers gives it back")
    started, obstacle = time.monotonic(), ""
    pooled = engine.raw_connection()
    try:
        driver = pooled.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.execute("VACUUM")
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        obstacle = f"{error}: another process uses the store, or the disk lacks room for a copy"
    finally:
        pooled.close()
    return Compacted(before, store_size(engine).bytes, time.monotonic() - started, obstacle)
