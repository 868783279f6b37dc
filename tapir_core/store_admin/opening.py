"""Open a call store that is already there. What looks into a store never makes one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, create_engine, inspect, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tapir_core.calls.store_tables import answers, open_engine, writing
from tapir_core.errors import MissingPrerequisite, TapirError

__all__ = ["changing", "is_there", "open_existing", "reading", "shown_url"]


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
            f"the call store cannot be read: {_reason(error)}. `tapir store verify` looks for what is damaged."
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
            f"the call store cannot be written: {_reason(error)}. What was committed before stays; free the disk, or "
            "wait for the other process, and the same command goes on."
        ) from error


def _reason(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).strip()


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
