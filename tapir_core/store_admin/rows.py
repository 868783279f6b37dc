"""Whole rows of the store, one after another in bounded memory, damaged ones included."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Text, literal_column, select, type_coerce

from tapir_core.calls.store_tables import answers
from tapir_core.store_admin.opening import reading

__all__ = ["COLUMNS", "place_column", "read_rows", "stream_rows"]

COLUMNS = tuple(column.name for column in answers.columns)
ROWS_PER_FETCH = 100
"""A raw reply may have hundreds of kilobytes, so few are fetched at once."""


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
    with _lenient(connection), connection.execute(query, execution_options={"yield_per": ROWS_PER_FETCH}) as found:
        for row in found.mappings():
            yield dict(row)


def place_column(connection: Connection) -> ColumnElement[Any]:
    """What finds a row again, also when its key is damaged; until the file is rewritten."""
    return literal_column("answers.rowid") if connection.dialect.name == "sqlite" else answers.c.key


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
