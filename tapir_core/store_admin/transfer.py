"""Answers that come into a store: from another store, or from a file of what a model answered elsewhere.

What the store has already is never overwritten.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import sqlalchemy as sa

from tapir_core.calls.store_rows import insert_rows
from tapir_core.calls.store_tables import utc_now
from tapir_core.calls.types import Answer, Outcome, Request
from tapir_core.store_admin.rows import Checked, StoredRow, changing, sound_rows

ROWS_PER_COMMIT = 500
_LISTED = 20
"""Different replies that are spelt out; all are counted."""


@dataclass(frozen=True, slots=True)
class OtherText:
    """A key under which the store has another reply than the one that comes in. The store's stays."""

    key: str
    role: str
    model: str
    stored: str
    """Text of the store's answer, or its kind of failure."""
    offered: str
    """Text of the one that comes in, or its kind of failure."""


@dataclass(slots=True)
class Inserted:
    """What came into a store."""

    read: Checked = field(default_factory=Checked)
    """All rows that were read; the damaged ones among them are left out."""
    added: int = 0
    already_there: int = 0
    different: int = 0
    """Rows whose key the store has with another reply; the store's stays."""
    listed: list[OtherText] = field(default_factory=list)
    """The first of the different ones."""


def copy_answers(source: sa.Engine, target: sa.Engine) -> Inserted:
    """Insert what ``source`` has and ``target`` lacks, as far as ``source`` can be read.

    Raises:
        TapirError: ``target`` cannot be written; what was inserted before stays, and the same copy goes on.
    """
    done = Inserted()
    _insert(target, sound_rows(source, done.read), done)
    return done


def import_replies(engine: sa.Engine, replies: Iterable[tuple[Request, str]]) -> Inserted:
    """Insert texts as whole answers to their requests, as if the model had been asked: without cost, tokens and proof.

    Raises:
        TapirError: the store cannot be written; what was inserted before stays.
    """
    done = Inserted()
    rows = (_row_of(request, text) for request, text in replies)
    _insert(engine, filter(done.read.take, rows), done)
    return done


def _row_of(request: Request, text: str) -> StoredRow:
    same = {name: getattr(request, name) for name in ("key", "role", "model", "identity", "sample_index")}
    none = {"message": "", "attempts": 0, "prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0, "raw": None}
    asked = {"prompt_version": request.prompt_version, "run": request.run}
    return {**same, **asked, **none, "status": "answer", "text": text, "finish_reason": "stop", "created": utc_now()}


def _insert(engine: sa.Engine, rows: Iterator[StoredRow], done: Inserted) -> None:
    while some := list(islice(rows, ROWS_PER_COMMIT)):
        with changing(engine) as connection:
            stored = insert_rows(connection, some)
        there = {key: _said(outcome) for key, outcome in stored.items()}
        others = []
        for row in some:
            offered = row["status"], row["text"]
            kept = there.get(row["key"], offered)
            if kept != offered:
                others.append(OtherText(row["key"], row["role"], row["model"], _shown(*kept), _shown(*offered)))
        done.added += len(some) - len(stored)
        done.already_there += len(stored) - len(others)
        done.different += len(others)
        done.listed += others[: _LISTED - len(done.listed)]


def _said(outcome: Outcome) -> tuple[str, str]:
    return ("answer", outcome.text) if isinstance(outcome, Answer) else (outcome.kind, "")


def _shown(status: str, text: str) -> str:
    return text if status == "answer" else status
