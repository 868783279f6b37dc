"""Finding damaged rows of a store, and a damaged database file."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, delete
from sqlalchemy.exc import DatabaseError

from tapir_core.calls.store_tables import answers
from tapir_core.errors import TapirError
from tapir_core.store_admin.faults import Fault, row_faults
from tapir_core.store_admin.opening import changing
from tapir_core.store_admin.rows import place_column, read_rows, stream_rows

__all__ = ["DamagedRow", "Verified", "delete_rows", "verify_store"]

LISTED = 20
"""Damaged rows that are spelt out; all are counted."""
ROWS_PER_COMMIT = 1_000


@dataclass(frozen=True, slots=True)
class DamagedRow:
    """A row that is not what was stored; its texts as they can be shown."""

    key: str
    role: str
    model: str
    run: str
    faults: tuple[Fault, ...]


@dataclass(slots=True)
class Verified:
    """What a look at every row found."""

    rows: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    """Rows by what is wrong with them; a row may have several faults."""
    without_reply: int = 0
    """Answers without their raw reply: nothing is wrong with them, but nothing proves their text."""
    damaged: list[DamagedRow] = field(default_factory=list)
    """The first of them."""
    places: list[Any] = field(default_factory=list)
    """What finds every damaged row again, for `delete_rows`."""
    file_faults: list[str] = field(default_factory=list)
    """What the database says of itself."""

    @property
    def is_sound(self) -> bool:
        """True when nothing is wrong."""
        return not self.places and not self.file_faults


def verify_store(engine: Engine) -> Verified:
    """Check every row, and of SQLite the file; nothing is changed."""
    found = Verified(file_faults=_check_file(engine))
    try:
        for row in stream_rows(engine):
            _check(row, found)
    except TapirError as error:
        found.file_faults.append(f"reading stopped after {found.rows} rows: {error.__cause__ or error}")
    return found


def delete_rows(engine: Engine, places: Sequence[Any]) -> int:
    """Remove the rows that `verify_store` found and that are damaged still; gives how many went.

    They are asked for again when they are needed.

    Raises:
        TapirError: the store cannot be written.
    """
    removed = 0
    for start in range(0, len(places), ROWS_PER_COMMIT):
        some = places[start : start + ROWS_PER_COMMIT]
        with changing(engine) as connection:
            place = place_column(connection)
            # Looked at again: in the meantime another process may have rewritten the file, with other places.
            damaged = [row["place"] for row in read_rows(connection, [place.in_(some)]) if row_faults(row)]
            removed += connection.execute(delete(answers).where(place.in_(damaged))).rowcount
    return removed


def _check(row: dict[str, Any], found: Verified) -> None:
    found.rows += 1
    found.without_reply += row["status"] == "answer" and row["raw"] is None
    faults = row_faults(row)
    if not faults:
        return
    found.faults.update(faults)
    found.places.append(row["place"])
    if len(found.damaged) < LISTED:
        key, role, model, run = (_shown(row[name]) for name in ("key", "role", "model", "run"))
        found.damaged.append(DamagedRow(key, role, model, run, tuple(faults)))


def _check_file(engine: Engine) -> list[str]:
    """What SQLite says of its file; PostgreSQL has programs of its own for that (`pg_amcheck`)."""
    if engine.dialect.name != "sqlite":
        return []
    try:
        with engine.connect() as connection:
            said = [str(line) for line in connection.exec_driver_sql(f"PRAGMA integrity_check({LISTED})").scalars()]
    except DatabaseError as error:
        return [str(error.orig)]
    return [] if said == ["ok"] else said


def _shown(value: object) -> str:
    """A value that may be anything, as text that every terminal takes."""
    text = value if isinstance(value, str) else repr(value)
    return text if text.isprintable() else ascii(text)[1:-1]
