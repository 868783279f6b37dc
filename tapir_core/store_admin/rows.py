"""Rows of a call store: filtered, read, checked for damage, copied and imported.

Reading never makes a store, and existing rows are never overwritten. Limits: prompts are not stored, so a key cannot be
computed again, and a sound reply that was moved under another key is not detected. PostgreSQL itself refuses text that
is no UTF-8.
"""

import math
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from tapir_core import errors, paths, turns
from tapir_core.calls import store_rows, store_tables, types, wire, words

_ROWS_PER_FETCH = 100
"""A raw reply may have hundreds of kilobytes, so few are fetched at once."""
_AS_IT_CAME = types.Endpoint("", 1, thinking="keep")
"""For reading a stored reply: without prices, and keeping thoughts, which may have been removed."""
_WITHOUT_THOUGHTS = types.Endpoint("", 1)
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

LISTED = 20
"""Damaged or different rows that are listed; all are counted."""
ROWS_PER_COMMIT = 500

StoredRow = dict[str, Any]
"""A row of table `answers`, by the names of its columns."""

Fault = Literal[
    "key is no sha256",
    "unknown status",
    "undecodable text",
    "reply gives another text",
    "impossible count",
    "unreadable time",
]

_STATUSES = frozenset[str]({"answer", *types.TERMINAL})
_TEXTS = ("key", "role", "model", "identity", "prompt_version", "run", "status", "text", "finish_reason", "message")
_UNREADABLE = "the call store cannot be read: {}. `tapir store stats --check` looks for damage."
_UNWRITABLE = (
    "the call store cannot be written: {}. What was committed before stays; free the disk, or wait for the other "
    "process, and the same command goes on."
)
_MOST = 2**31 - 1
"""PostgreSQL's largest INTEGER; no reply has as many tokens."""
_COUNTS = ("sample_index", "attempts", "prompt_tokens", "completion_tokens")


def rows_where(
    *, unusable: bool = False, before: datetime | None = None, **among: Sequence[str] | None
) -> sa.ColumnElement[bool]:
    """The SQL condition of rows that meet everything given.

    Args:
        unusable: Only failures, and answers that are empty, cut off or contain control tokens: they are not trained on.
        before: Only rows before this moment, in UTC.
        among: Column (`role`, `model`, `identity`, `status`, `finish_reason`) → allowed values.

    Raises:
        ConfigError: nothing is given.
    """
    columns = store_tables.answers.c
    among["finish_reason"] = [word for ending in among.get("finish_reason") or () for word in words.words_of(ending)]
    is_unusable = (
        (columns.status != "answer")
        # A score has no text, and a rollout is learnt from as it was drawn.
        | columns.role.not_in(("score", "rollout"))
        & (
            (sa.func.trim(columns.text, " \t\r\n") == "")
            | columns.finish_reason.in_((*words.words_of(words.CUT_OFF), *words.words_of(words.REFUSED)))
            | columns.text.regexp_match(turns.CONTROL_TOKEN.pattern)
            | (columns.text.contains("</s>") & ~columns.text.contains("<s>"))
        )
    )
    found: list[sa.ColumnElement[bool]] = [
        *(columns[name].in_(values) for name, values in among.items() if values),
        *([is_unusable] if unusable else []),
        *([] if before is None else [columns.created < before]),
    ]
    if not found:
        raise errors.ConfigError(
            "nothing says which rows to prune; give --older-than 30d, --model, --identity, --role or --status"
        )
    return sa.and_(*found)


def open_existing(url: str) -> sa.Engine:
    """An engine on the store at ``url``.

    Raises:
        MissingPrerequisite: there is none, or it cannot be reached.
        ConfigError: the URL is not supported, or another version of tapir wrote the store.
    """
    if not store_tables.is_there(url):
        raise errors.MissingPrerequisite(
            f"there is no call store at {store_tables.shown_url(url)}; the first run of a root makes it at "
            f"ROOT/{paths.STORE}. Name an existing one with --root or --store, or as FROM of `tapir store copy`"
        )
    return store_tables.open_engine(url)


def reading(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """A connection to read with.

    Raises:
        TapirError: the database cannot be read.
    """
    return store_tables.explained(_UNREADABLE, engine.connect)


def changing(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """A transaction that changes the store.

    Raises:
        TapirError: the database cannot be written.
    """
    return store_tables.explained(_UNWRITABLE, partial(store_tables.writing, engine))


def read_rows(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> Iterator[tuple[Any, StoredRow]]:
    """The place and the content of every row that meets ``conditions``, as of when the first is read.

    Bytes that are no UTF-8 become lone surrogates, and SQLite's times stay text, so that a damaged row can be detected
    and does not stop the others.
    """
    driver = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        connection.detach()  # from the pool, which would give it to others
        driver.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
    created = sa.type_coerce(store_tables.answers.c.created, sa.Text).label("created")
    columns = [created if column.name == "created" else column for column in store_tables.answers.columns]
    query = sa.select(place_column(connection).label("place"), *columns).where(*conditions)
    with connection.execute(query, execution_options={"yield_per": _ROWS_PER_FETCH}) as found:
        for each in found.mappings():
            row = dict(each)
            yield row.pop("place"), row


def place_column(connection: sa.Connection) -> sa.ColumnElement[Any]:
    """The column that finds a row again even if its key is damaged, until the file is rewritten."""
    return sa.literal_column("answers.rowid") if connection.dialect.name == "sqlite" else store_tables.answers.c.key


def read_age(text: str) -> timedelta:
    """An age such as `12h`, `30d` or `8w`.

    Raises:
        ConfigError: ``text`` is no age.
    """
    match = re.fullmatch(r"(\d{1,4})([hdw])", text.strip())
    if match is None:
        raise errors.ConfigError(f"{text!r} is no age; write it as 12h, 30d or 8w")
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, slots=True)
class DamagedRow:
    """A damaged row, with printable texts."""

    key: str
    role: str
    model: str
    run: str
    faults: tuple[Fault, ...]


@dataclass(slots=True)
class Checked:
    """The result of checking every row."""

    rows: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    """Rows by what is wrong with them; a row may have several faults."""
    without_reply: int = 0
    """Answers without their raw reply: they are not damaged, but nothing proves their text."""
    damaged: list[DamagedRow] = field(default_factory=list)
    """The first of them."""
    places: list[Any] = field(default_factory=list)
    """The places of all damaged rows, for `delete_rows`."""
    file_faults: list[str] = field(default_factory=list)
    """Faults that the database reports."""

    def take(self, row: StoredRow, place: Any = None) -> bool:
        """Count ``row``; returns whether it is sound."""
        faults = row_faults(row)
        self.rows += 1
        self.without_reply += row["status"] == "answer" and row["raw"] is None
        self.faults.update(faults)
        self.places += [place] if faults else []
        if faults and len(self.damaged) < LISTED:
            key, role, model, run = (_shown(row[name]) for name in ("key", "role", "model", "run"))
            self.damaged.append(DamagedRow(key, role, model, run, tuple(faults)))
        return not faults


def check_store(engine: sa.Engine) -> Checked:
    """Check every row, and the file of SQLite, without any change."""
    found = Checked(file_faults=_check_file(engine))
    for _ in sound_rows(engine, found):
        pass
    return found


def sound_rows(engine: sa.Engine, found: Checked) -> Iterator[StoredRow]:
    """The sound rows, as far as the database can be read; ``found`` counts all rows and why reading stopped."""
    try:
        with reading(engine) as connection:
            for place, row in read_rows(connection):
                if found.take(row, place):
                    yield row | {"created": datetime.fromisoformat(str(row["created"]))}
    except errors.TapirError as error:
        found.file_faults.append(f"reading stopped after {found.rows} rows: {store_tables.reason_of(error.__cause__)}")


def delete_rows(engine: sa.Engine, places: Sequence[Any]) -> int:
    """Remove the rows that `check_store` found, if they are still damaged; returns how many.

    Runs that need them ask for them again.

    Raises:
        TapirError: the store cannot be written.
    """
    removed = 0
    for some in store_tables.in_groups(places, ROWS_PER_COMMIT):
        with changing(engine) as connection:
            column = place_column(connection)
            # Checked again: another process may have rewritten the file meanwhile, with other places.
            damaged = [place for place, row in read_rows(connection, column.in_(some)) if row_faults(row)]
            removed += connection.execute(sa.delete(store_tables.answers).where(column.in_(damaged))).rowcount
    return removed


@dataclass(frozen=True, slots=True)
class OtherText:
    """A key under which the store has another reply than the one offered. The store's stays."""

    key: str
    role: str
    model: str
    stored: str
    """Text of the store's answer, or its kind of failure."""
    offered: str
    """Text of the one offered, or its kind of failure."""


@dataclass(slots=True)
class Inserted:
    """The result of inserting rows."""

    read: Checked = field(default_factory=Checked)
    """All rows that were read; damaged ones are left out."""
    added: int = 0
    already_there: int = 0
    different: int = 0
    """Rows whose key has another reply in the store; the store's stays."""
    listed: list[OtherText] = field(default_factory=list)
    """The first of the different rows."""


def copy_answers(source: sa.Engine, target: sa.Engine) -> Inserted:
    """Insert rows of ``source`` that are not in ``target``, as far as ``source`` can be read.

    Raises:
        TapirError: ``target`` cannot be written; rows inserted before stay, and the same copy continues.
    """
    done = Inserted()
    return _insert(target, sound_rows(source, done.read), done)


def import_replies(engine: sa.Engine, replies: Iterable[tuple[types.Request, str]]) -> Inserted:
    """Insert texts as whole answers to their requests, as if the model had been asked: without cost, tokens and proof.

    Raises:
        TapirError: the store cannot be written; rows inserted before stay.
    """
    done = Inserted()
    rows = (
        store_rows.make_row(request.key, request, wire.Reply(types.Answer(text, words.WHOLE, 0, 0), types.Spend()))
        for request, text in replies
    )
    return _insert(engine, filter(done.read.take, rows), done)


def _insert(engine: sa.Engine, rows: Iterator[StoredRow], done: Inserted) -> Inserted:
    """``done``, to which the result of inserting ``rows`` is added."""
    while some := list(islice(rows, ROWS_PER_COMMIT)):
        with changing(engine) as connection:
            stored = store_rows.insert_rows(connection, some)
        there = {
            key: ("answer", outcome.text) if isinstance(outcome, types.Answer) else (outcome.kind, "")
            for key, outcome in stored.items()
        }
        others = []
        for row in some:
            offered = row["status"], row["text"]
            kept = there.get(row["key"], offered)
            if kept != offered:
                shown = (text if status == "answer" else status for status, text in (kept, offered))
                others.append(OtherText(row["key"], row["role"], row["model"], *shown))
        done.added += len(some) - len(stored)
        done.already_there += len(stored) - len(others)
        done.different += len(others)
        done.listed += others[: LISTED - len(done.listed)]
    return done


def row_faults(row: StoredRow) -> list[Fault]:
    """The faults of ``row`` (the columns of table `answers`), worst first; empty for a sound row."""
    answered = row["status"] == "answer" and row["raw"] is not None
    readable = all(_is_text(row[name]) for name in _TEXTS) and (row["raw"] is None or _is_text(row["raw"]))
    counted = all(isinstance(row[name], int) and 0 <= row[name] <= _MOST for name in _COUNTS)
    paid = isinstance(row["usd"], int | float) and 0 <= row["usd"] < math.inf
    found: dict[Fault, bool] = {
        "key is no sha256": re.fullmatch(r"[0-9a-f]{64}", str(row["key"])) is None,
        "unknown status": row["status"] not in _STATUSES,
        "undecodable text": not readable,
        "reply gives another text": readable and answered and not _gives_again(row),
        "impossible count": not (counted and paid),
        "unreadable time": not _is_moment(row["created"]),
    }
    return [fault for fault, is_found in found.items() if is_found]


def _check_file(engine: sa.Engine) -> list[str]:
    """The faults that SQLite finds in its file; PostgreSQL has its own programs for that (`pg_amcheck`)."""
    if engine.dialect.name != "sqlite":
        return []
    try:
        with engine.connect() as connection:
            said = [str(line) for line in connection.exec_driver_sql(f"PRAGMA integrity_check({LISTED})").scalars()]
    except DatabaseError as error:
        return [str(error.orig)]
    return [] if said == ["ok"] else said


def _shown(value: object) -> str:
    """Any value as printable text."""
    text = value if isinstance(value, str) else repr(value)
    return text if text.isprintable() else ascii(text)[1:-1]


def _is_text(value: object) -> bool:
    """Whether a value is text that can be encoded, without the NUL at which PostgreSQL and C programs stop."""
    return isinstance(value, str) and wire.clean_text(value) == value


def _gives_again(row: StoredRow) -> bool:
    """Whether the raw reply, read again, gives the stored answer."""
    try:
        if wire.read_tokens(row["raw"]) is not None:
            return True
        read = wire.read_completion(row["raw"], _AS_IT_CAME).outcome
    except (RecursionError, LookupError, TypeError, ValueError):
        return False  # nested deeper than any reply that was ever read, or no tokens where there should be some
    if not isinstance(read, types.Answer):
        return False
    # The reply alone does not say that an answer to be trained on used all its tokens.
    endings = {read.finish_reason, *([words.CUT_OFF] if row["role"] in wire.TRAINED_ON else [])}
    # As it came, without its thoughts, with its calls of tools: each was stored by some version or some setting.
    content, bare = wire.read_content(row["raw"]), wire.read_completion(row["raw"], _WITHOUT_THOUGHTS).outcome
    given = {content, words.strip_thoughts(content), read.text, bare.text if isinstance(bare, types.Answer) else ""}
    return words.read_ending(row["finish_reason"]) in endings and row["text"] in given


def _is_moment(value: Any) -> bool:
    """Whether a value is a time; SQLite keeps times as text, which may be any text."""
    try:
        return isinstance(value, datetime) or bool(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False
