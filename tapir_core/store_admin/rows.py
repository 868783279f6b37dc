"""Rows of a call store that is already there: opened, filtered, read, and looked at for damage.

What looks into a store never makes one. Limits: the messages that were asked are not kept, so a key cannot be computed
again, and a sound reply that was moved under another key is not found. PostgreSQL itself refuses text that is no UTF-8.
"""

import math
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    NullPool,
    Text,
    create_engine,
    delete,
    inspect,
    literal_column,
    make_url,
    select,
    type_coerce,
)
from sqlalchemy.exc import ArgumentError, DatabaseError, SQLAlchemyError

from tapir_core.calls.asking import in_groups
from tapir_core.calls.store_tables import answers, open_engine, reason_of, writing
from tapir_core.calls.types import TERMINAL, Answer, Endpoint
from tapir_core.calls.wire import clean_text, read_completion, strip_thoughts
from tapir_core.errors import ConfigError, MissingPrerequisite, TapirError

COLUMNS = tuple(column.name for column in answers.columns)
_ROWS_PER_FETCH = 100
_AS_IT_CAME = Endpoint("", 1, thinking="keep")
"""Of a stored reply: without prices, and with the thoughts that may have been taken out."""
"""A raw reply may have hundreds of kilobytes, so few are fetched at once."""
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

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
class RowFilter:
    """Rows that meet every condition; a condition left out is met by all."""

    roles: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    """Runs that asked first."""
    statuses: tuple[str, ...] = ()
    """`answer`, or kinds of terminal failures."""
    finish_reasons: tuple[str, ...] = ()
    """Why answers ended: `stop`, or `length` where they were cut off."""
    since: datetime | None = None
    """UTC; rows of this moment or later."""
    before: datetime | None = None
    """UTC; rows before this moment."""

    @property
    def is_empty(self) -> bool:
        """True when every row meets it."""
        return self == RowFilter()

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions of the filter in SQL."""
        columns = answers.c
        listed = {
            columns.role: self.roles,
            columns.model: self.models,
            columns.identity: self.identities,
            columns.run: self.runs,
            columns.status: self.statuses,
            columns.finish_reason: self.finish_reasons,
        }
        found: list[ColumnElement[bool]] = [column.in_(values) for column, values in listed.items() if values]
        if self.since is not None:
            found.append(columns.created >= self.since)
        if self.before is not None:
            found.append(columns.created < self.before)
        return found

    def as_json(self) -> dict[str, object]:
        """The conditions that are set, for a manifest."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: value.isoformat() if isinstance(value, datetime) else list(value)
            for name, value in values.items()
            if value
        }


def shown_url(url: str) -> str:
    """``url`` without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "the call store"  # what cannot be parsed may hold a password anywhere


def open_existing(url: str) -> Engine:
    """An engine on the store at ``url``.

    Raises:
        MissingPrerequisite: there is none, or it cannot be reached.
        ConfigError: the URL is not supported, or another version of tapir wrote the store.
    """
    if not is_there(url):
        raise MissingPrerequisite(
            f"there is no call store at {shown_url(url)}; the first run of a root makes it. Name another root with "
            "--root, or a store with --store sqlite:///path/store.sqlite"
        )
    return open_engine(url)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection to read with.

    Raises:
        TapirError: the database cannot be read.
    """
    try:
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise TapirError(
            f"the call store cannot be read: {reason_of(error)}. `tapir store verify` looks for what is damaged."
        ) from error


@contextmanager
def changing(engine: Engine) -> Iterator[Connection]:
    """A transaction that changes the store.

    Raises:
        TapirError: the database cannot be written.
    """
    try:
        with writing(engine) as connection:
            yield connection
    except SQLAlchemyError as error:
        raise TapirError(
            f"the call store cannot be written: {reason_of(error)}. What was committed before stays; free the disk, or "
            "wait for the other process, and the same command goes on."
        ) from error


def is_there(url: str) -> bool:
    """False when nothing is at ``url``; what is wrong with the URL or the server is `open_engine`'s to say."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return True
    if parsed.drivername == "sqlite":
        if not Path(str(parsed.database)).is_file():
            return False
    elif parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    else:
        return True
    try:
        return inspect(create_engine(parsed, poolclass=NullPool)).has_table(answers.name)
    except SQLAlchemyError:
        return True


def stream_rows(
    engine: Engine, conditions: Sequence[ColumnElement[bool]] = (), *, by_key: bool = False
) -> Iterator[dict[str, Any]]:
    """Every row that meets ``conditions``, as it was when the first is read; a row's columns, and its `place`.

    Bytes that are no UTF-8 come as lone surrogates, and SQLite's times as the text that they are stored as, so that a
    damaged row can be told and does not stop the others.

    Raises:
        TapirError: the database cannot be read further.
    """
    with reading(engine) as connection:
        yield from read_rows(connection, conditions, by_key=by_key)


def read_rows(
    connection: Connection, conditions: Sequence[ColumnElement[bool]] = (), *, by_key: bool = False
) -> Iterator[dict[str, Any]]:
    """`stream_rows` on a connection that is there."""
    created = type_coerce(answers.c.created, Text).label("created")
    columns = [created if column.name == "created" else column for column in answers.columns]
    query = select(place_column(connection).label("place"), *columns).where(*conditions)
    if by_key:
        query = query.order_by(answers.c.key)
    with _lenient(connection), connection.execute(query, execution_options={"yield_per": _ROWS_PER_FETCH}) as found:
        for row in found.mappings():
            yield dict(row)


def place_column(connection: Connection) -> ColumnElement[Any]:
    """What finds a row again, also when its key is damaged; until the file is rewritten."""
    return literal_column("answers.rowid") if connection.dialect.name == "sqlite" else answers.c.key


def read_age(text: str) -> timedelta:
    """An age such as `12h`, `30d` or `8w`.

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d{1,4})([hdw])", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no age; write it as 12h, 30d or 8w")
    return int(match[1]) * _UNITS[match[2]]


def read_moment(text: str, *, now: datetime) -> datetime:
    """A date (`2026-11-01`), a date and time, or an age before ``now``; as UTC without a zone, as the store has it.

    Raises:
        ConfigError: it is none of them.
    """
    if re.fullmatch(r"\d+[hdw]", text.strip()):
        return _as_stored(now - read_age(text))
    try:
        return _as_stored(datetime.fromisoformat(text.strip()))
    except ValueError as exc:
        raise ConfigError(f"{text!r} is no moment; write it as 2026-11-01, 2026-11-01T12:00 (UTC) or 30d") from exc


@contextmanager
def _lenient(connection: Connection) -> Iterator[None]:
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        yield
        return
    driver.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
    try:
        yield
    finally:
        driver.text_factory = str  # the pool gives the connection to others


def _as_stored(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


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
    if not (isinstance(row["key"], str) and re.fullmatch(r"[0-9a-f]{64}", row["key"])):
        faults.append("key is no sha256")
    if row["status"] not in _STATUSES:
        faults.append("unknown status")
    if not readable:
        faults.append("undecodable text")
    elif row["status"] == "answer" and row["raw"] is not None and not _gives_again(row):
        faults.append("reply gives another text")
    counts, usd = [row[name] for name in _COUNTS], row["usd"]
    counted = all(isinstance(count, int) and 0 <= count <= _MOST for count in counts)
    if not (counted and isinstance(usd, int | float) and math.isfinite(usd) and usd >= 0):
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
    return isinstance(value, str) and clean_text(value) == value


def _gives_again(row: Mapping[str, Any]) -> bool:
    """Whether today's reader makes the stored answer of the raw reply."""
    try:
        reply = read_completion(row["raw"], _AS_IT_CAME)
    except RecursionError:
        return False  # nested deeper than any reply that was ever read
    outcome = reply.outcome
    if not isinstance(outcome, Answer) or outcome.finish_reason != row["finish_reason"]:
        return False
    return row["text"] in (outcome.text, strip_thoughts(outcome.text))


def _is_moment(value: object) -> bool:
    """SQLite keeps times as text, and any text."""
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            return False
        return True
    return isinstance(value, datetime)
