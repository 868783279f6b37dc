"""Finding damaged rows of a store, and a damaged database file.

Limits: the messages that were asked are not kept, so a key cannot be computed again, and a sound reply that was moved
under another key is not found. PostgreSQL itself refuses text that is not UTF-8.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Engine, delete
from sqlalchemy.exc import DatabaseError

from tapir_core.calls.asking import in_groups
from tapir_core.calls.store_tables import answers
from tapir_core.calls.types import TERMINAL, Answer
from tapir_core.calls.wire import read_completion
from tapir_core.errors import TapirError
from tapir_core.store_admin.opening import changing, place_column, read_rows, stream_rows

LISTED = 20
"""Damaged rows that are spelt out; all are counted."""
ROWS_PER_COMMIT = 1_000

Fault = Literal[
    "key is no sha256",
    "unknown status",
    "undecodable text",
    "reply gives another text",
    "impossible count",
    "unreadable time",
]

_STATUSES = frozenset[str]({"answer", *TERMINAL})
_TEXTS = ("key", "role", "model", "identity", "prompt_version", "run", "status", "text", "finish_reason", "message")
_MOST = 2**31 - 1
"""PostgreSQL's largest INTEGER; no reply has as many tokens."""
_COUNTS = ("sample_index", "attempts", "prompt_tokens", "completion_tokens")


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
    for some in in_groups(places, ROWS_PER_COMMIT):
        with changing(engine) as connection:
            place = place_column(connection)
            # Looked at again: in the meantime another process may have rewritten the file, with other places.
            damaged = [row["place"] for row in read_rows(connection, [place.in_(some)]) if row_faults(row)]
            removed += connection.execute(delete(answers).where(place.in_(damaged))).rowcount
    return removed


def row_faults(row: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with ``row`` (the columns of table `answers`), worst first; nothing of a sound row."""
    faults: list[Fault] = []
    readable = all(_is_text(row[name]) for name in _TEXTS) and (row["raw"] is None or _is_text(row["raw"]))
    if not _is_sha256(row["key"]):
        faults.append("key is no sha256")
    if row["status"] not in _STATUSES:
        faults.append("unknown status")
    if not readable:
        faults.append("undecodable text")
    elif row["status"] == "answer" and row["raw"] is not None and not _gives_again(row):
        faults.append("reply gives another text")
    if not all(_is_count(row[name]) for name in _COUNTS) or not _is_price(row["usd"]):
        faults.append("impossible count")
    if not _is_moment(row["created"]):
        faults.append("unreadable time")
    return faults


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


def _is_text(value: object) -> bool:
    """Text as the store takes it: encodable, and without the NUL that PostgreSQL and C programs stop at."""
    if not isinstance(value, str) or "\x00" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _gives_again(row: Mapping[str, Any]) -> bool:
    """Whether today's reader makes the stored answer of the raw reply."""
    try:
        reply = read_completion(row["raw"], usd_per_million_prompt=0, usd_per_million_completion=0)
    except RecursionError:
        return False  # nested deeper than any reply that was ever read
    outcome = reply.outcome
    return isinstance(outcome, Answer) and (outcome.text, outcome.finish_reason) == (row["text"], row["finish_reason"])


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= _MOST


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _is_moment(value: object) -> bool:
    """SQLite keeps times as text, and any text."""
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            return False
        return True
    return isinstance(value, datetime)
