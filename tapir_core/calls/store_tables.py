"""The call store's database: its tables, and how it is opened.

SQLite (a file) and PostgreSQL by the same code; the URL decides. Importing this module imports SQLAlchemy, which takes
0.2 s: `AnswerStore` imports it when a store is opened.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tapir_core.errors import ConfigError, MissingPrerequisite, TapirError
from tapir_core.processes import Holder

BUSY_SECONDS = 20
"""How long a writer waits for another process's transaction in SQLite before it fails, or is tried again."""
_POSTGRES = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "tcp_user_timeout": 30_000}
"""A server that vanished is given up soon. Seconds; the last one: milliseconds."""

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgresql+psycopg": "postgresql+psycopg"}

_OPENING_LOCK = 0x7A917
"""PostgreSQL's advisory lock: two processes that run CREATE TABLE IF NOT EXISTS at once can collide."""

_SCHEMA_VERSION = "5"

_MOST_IN_GROUP = 5000
"""Keys in one statement."""

_POSTGRES_CLOCK = sa.select(sa.func.timezone("UTC", sa.func.clock_timestamp()))
_SQLITE_CLOCK = sa.select(sa.func.now())

T = TypeVar("T")

metadata = sa.MetaData()

meta = sa.Table(
    "meta", metadata, sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.Text, nullable=False)
)

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("prompt_version", sa.String(64), nullable=False),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("sample_index", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("finish_reason", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("usd", sa.Float, nullable=False),
    sa.Column("raw", sa.Text, nullable=True),
    sa.Column("created", sa.DateTime, nullable=False),
    sa.Index("answers_by_run", "run", "role"),
)
"""One row per received outcome. `status` is `answer` or a terminal failure kind; `run` is the first asker; `created` is
UTC; `raw` is the body as it came, with the key of the endpoint taken out."""

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("run_key", sa.String(512), primary_key=True),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("boot_id", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.Float, nullable=False),
    sa.Column("since", sa.DateTime, nullable=False),
    sa.Column("heartbeat", sa.DateTime, nullable=False),
    sa.Column("flow_run", sa.Text),
)
"""One row per run that is driven now, by the database's clock."""

replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("run_key", sa.String(512), nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("checkpoint", sa.Text, nullable=False),
    sa.Column("base_url", sa.Text, nullable=False),
    sa.Column("concurrency", sa.Integer, nullable=False),
    sa.Column("leaving", sa.Boolean, nullable=False),
    sa.Column("host", sa.Text, nullable=True),
    sa.Column("boot_id", sa.Text, nullable=True),
    sa.Column("pid", sa.Integer, nullable=True),
    sa.Column("process_started", sa.Float, nullable=True),
    sa.Column("heartbeat", sa.DateTime, nullable=False),
    sa.Index("replicas_by_run", "run_key"),
)
"""One row per server of a run's student that is asked for, starts or serves, by the database's clock. No process has it
while it is only asked for; `base_url` is empty until it serves. Its key stands nowhere: both sides derive it."""

holders = sa.Table(
    "holders",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("boot_id", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.Float, nullable=False),
    sa.Column("heartbeat", sa.DateTime, nullable=False),
)
"""One row per open store that has asked something, by the database's clock."""

shards = sa.Table(
    "shards",
    metadata,
    sa.Column("shard", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(32), nullable=False),
    sa.Index("shards_by_holder", "holder"),
)
"""One row per list of requests that a process asks, by the digest of their keys: no other process asks it meanwhile."""

attempts = sa.Table(
    "attempts",
    metadata,
    # SQLite has 64 bits in every INTEGER, and keeps rows by it only under that name.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("run", sa.String(512), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("usd", sa.Float, nullable=False),
    sa.Column("unknown", sa.Boolean, nullable=False),
    sa.Column("sent", sa.DateTime, nullable=False),
    sa.Index("attempts_by_run", "run", "unknown"),
)
"""One row per attempt, written before it is sent. `run` is the run's id; `outcome` is empty until a reply came, then
`answer` or the kind of failure. While `unknown`, tokens and USD are the most that it can cost: no reply has come, or
one that does not say. `sent` is UTC."""

useless = sa.Table(
    "useless",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("reply", sa.String(64), nullable=False),
    sa.Column("replies", sa.Integer, nullable=False),
)
"""One row per request whose last replies brought no answer, with how many of them in a row were the same, by digest."""

spending = sa.Table(
    "spending",
    metadata,
    sa.Column("run", sa.String(512), primary_key=True),
    sa.Column("role", sa.String(16), primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("usd", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)
"""What each run, by its id, has spent by role, over all its starts and processes: sums of its `attempts`, and time."""

reuse = sa.Table(
    "reuse",
    metadata,
    sa.Column("role", sa.String(16), primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("identity", sa.Text, primary_key=True),
    sa.Column("prompt_version", sa.String(64), primary_key=True),
    sa.Column("run", sa.String(512), primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
)
"""How many requests of each run were answered from the store."""

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("tag", sa.String(32), primary_key=True),
    sa.Column("driver", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("input_file_id", sa.Text, nullable=False),
    sa.Column("provider_id", sa.Text, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("created", sa.DateTime, nullable=False),
    sa.Column("ended", sa.DateTime, nullable=True),
    sa.Index("batches_by_run", "run"),
)
"""One row per batch that was ever planned. `tag` is ours: the provider has it as metadata. `driver` is the holder that
leads it now, if that one lives. `state` is `planned`, `uploaded`, `made`, and in the end the provider's last word, or
why it was dropped. Times are UTC."""

batch_rows = sa.Table(
    "batch_rows",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("batch", sa.String(32), nullable=False),
    sa.Column("prompt_version", sa.String(64), nullable=False),
    sa.Column("sample_index", sa.Integer, nullable=False),
    sa.Column("attempt", sa.BigInteger, nullable=False),
    sa.Index("batch_rows_by_batch", "batch"),
)
"""One row per request of a batch that has not ended: no other process sends it meanwhile."""


def open_engine(url: str) -> sa.Engine:
    """An engine on ``url`` with every table in place.

    Raises:
        ConfigError: the URL is neither file-backed SQLite nor PostgreSQL, or another version of tapir wrote the store.
        MissingPrerequisite: the database cannot be reached or written.
    """
    parsed = read_url(url)
    shown = shown_url(parsed)
    try:
        engine = _create_sqlite(parsed) if parsed.drivername == "sqlite" else _create_postgres(parsed)
        with writing(engine) as connection:
            _make_tables(connection, shown)
    except (SQLAlchemyError, OSError) as error:
        raise MissingPrerequisite(
            f"the call store {shown} cannot be opened: {reason_of(error)}. Check the path, its rights, the room on its "
            "disk, and that the server runs."
        ) from error
    return engine


def is_there(url: str) -> bool:
    """Whether there is a store at ``url``; also true for a server with a problem, which `open_engine` reports.

    Raises:
        ConfigError: the URL is not supported.
    """
    parsed = read_url(url)
    if parsed.drivername == "sqlite" and not Path(str(parsed.database)).is_file():
        return False
    try:
        return sa.inspect(sa.create_engine(parsed, poolclass=sa.NullPool)).has_table(answers.name)
    except SQLAlchemyError:
        return True


def read_url(url: str) -> sa.URL:
    """The URL of a store, with its driver.

    Raises:
        ConfigError: it is neither file-backed SQLite nor PostgreSQL.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        # The text is not shown: it may contain a password anywhere.
        raise ConfigError("calls.store_url is no SQLAlchemy URL; write it as sqlite:///path/store.sqlite") from error
    if parsed.drivername not in _DRIVERS or parsed.database in {None, "", ":memory:"}:
        raise ConfigError(
            f"calls.store_url = {shown_url(parsed)!r} is not supported. Use sqlite:///path/store.sqlite or "
            "postgresql://host/database"
        )
    return parsed.set(drivername=_DRIVERS[parsed.drivername])


def shown_url(url: sa.URL | str) -> str:
    """A valid ``url`` without its driver and its password."""
    parsed = sa.make_url(url)
    return parsed.set(drivername=parsed.get_backend_name()).render_as_string(hide_password=True)


def writing(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """A transaction that takes the write lock at its start, so that it never fails half-way on a lock upgrade."""
    return engine.execution_options(tapir_writes=True).begin()


@lru_cache
def insert_or_ignore(dialect: str, table: sa.Table) -> Any:
    """An INSERT that leaves an existing row as it is."""
    return _insert(dialect, table).on_conflict_do_nothing()


@lru_cache
def insert_or_add(dialect: str, table: sa.Table) -> Any:
    """An INSERT that adds its numbers to the row with the same primary key, if there is one."""
    statement = _insert(dialect, table)
    keys = [column.name for column in table.primary_key]
    sums = {each.name: each + statement.excluded[each.name] for each in table.columns if each.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=sums)


def with_silence(connection: sa.Connection, query: sa.Select[Any]) -> list[dict[str, Any]]:
    """The rows of ``query``, each with `silent`, the time since its heartbeat."""
    rows, now = connection.execute(query).mappings().all(), database_time(connection)
    return [{**row, "silent": now - row["heartbeat"]} for row in rows]


def own_process(connection: sa.Connection) -> dict[str, Any]:
    """The columns that name this process as a row's holder, with a heartbeat."""
    return {**asdict(Holder.this_process()), "heartbeat": database_time(connection)}


def read_column(
    connection: sa.Connection, values: Sequence[Any], column: sa.Column[Any], found: sa.Column[T]
) -> set[T]:
    """The column ``found`` of all rows whose ``column`` has one of ``values``, which may be any number."""
    return {
        value for some in in_groups(values) for value in connection.scalars(sa.select(found).where(column.in_(some)))
    }


def read_known(connection: sa.Connection, values: Sequence[T], column: sa.Column[T]) -> set[T]:
    """Which of ``values`` are in a column."""
    return read_column(connection, values, column, column)


def in_groups(values: Sequence[T], size: int = _MOST_IN_GROUP) -> Iterator[Sequence[T]]:
    """``values`` in their order, in groups of ``size``."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def database_time(connection: sa.Connection) -> datetime:
    """The database's UTC time without zone, as in the columns."""
    clock = _POSTGRES_CLOCK if connection.dialect.name == "postgresql" else _SQLITE_CLOCK
    now: datetime = connection.execute(clock).scalar_one()
    return now


def utc_now() -> datetime:
    """This machine's UTC time without zone, as in the columns."""
    return datetime.now(UTC).replace(tzinfo=None)


@contextmanager
def explained(said: str, connect: Callable[[], AbstractContextManager[sa.Connection]]) -> Iterator[sa.Connection]:
    """A connection; an error of the database becomes a TapirError: ``said``, with the reason in place of its `{}`."""
    try:
        with connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise TapirError(said.format(reason_of(error))) from error


def reason_of(error: BaseException | None) -> str:
    """The driver's message, without the statement that SQLAlchemy adds."""
    return str(getattr(error, "orig", None) or error).strip()


def _insert(dialect: str, table: sa.Table) -> Any:
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def _create_postgres(url: sa.URL) -> sa.Engine:
    ours = {name: value for name, value in _POSTGRES.items() if name not in url.query}
    # A database without an encoding (SQL_ASCII) would give bytes.
    return sa.create_engine(url, connect_args={**ours, "client_encoding": "UTF8"}, pool_pre_ping=True)


def _create_sqlite(url: sa.URL) -> sa.Engine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS} if "timeout" not in url.query else {})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transactions would begin late and without the write lock; `_begin_sqlite` replaces them.
    connection.isolation_level = None
    # If several processes create one store, this fails at once instead of waiting.
    busy = retry_if_exception_type(sqlite3.OperationalError)
    switch = Retrying(retry=busy, stop=stop_after_delay(BUSY_SECONDS), wait=wait_fixed(0.02), reraise=True)
    switch(connection.execute, "PRAGMA journal_mode = WAL")
    # A paid answer is worth an fsync. Writes are group-committed, so there is one for many answers, and neither a kill
    # nor a power cut loses a received answer. (NORMAL would survive only the kill.)
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql(
        "BEGIN IMMEDIATE" if connection.get_execution_options().get("tapir_writes", False) else "BEGIN"
    )


def _make_tables(connection: sa.Connection, shown: str) -> None:
    """Make missing tables.

    Raises:
        ConfigError: another version of tapir wrote the store that ``shown`` names.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_OPENING_LOCK)))
    metadata.create_all(connection)
    connection.execute(
        insert_or_ignore(connection.dialect.name, meta).values(name="schema_version", value=_SCHEMA_VERSION)
    )
    found = connection.scalar(sa.select(meta.c.value).where(meta.c.name == "schema_version"))
    if found != _SCHEMA_VERSION:
        raise ConfigError(
            f"the call store {shown} has schema version {found}, this version of tapir knows {_SCHEMA_VERSION}. "
            "Use the tapir version that wrote it, or another calls.store_url."
        )
