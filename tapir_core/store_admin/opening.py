"""A call store that is already there: opened, and its rows read. What looks into a store never makes one."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    NullPool,
    Text,
    create_engine,
    inspect,
    literal_column,
    make_url,
    select,
    type_coerce,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tapir_core.calls.store_tables import answers, open_engine, reason_of, writing
from tapir_core.errors import ConfigError, MissingPrerequisite, TapirError

COLUMNS = tuple(column.name for column in answers.columns)
_ROWS_PER_FETCH = 100
"""A raw reply may have hundreds of kilobytes, so few are fetched at once."""
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


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
