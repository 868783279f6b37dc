"""Answers of an export into a store. What the store has already is never overwritten."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from tapir_core.calls.answer_rows import insert_rows
from tapir_core.calls.types import Answer, Outcome
from tapir_core.store_admin.archive import Archive
from tapir_core.store_admin.faults import row_faults
from tapir_core.store_admin.opening import changing

__all__ = ["Imported", "OtherText", "import_answers"]

ROWS_PER_COMMIT = 500
LISTED = 20
"""Rows that are spelt out; all are counted."""


@dataclass(frozen=True, slots=True)
class OtherText:
    """A key under which store and export hold different replies. The store's stays."""

    key: str
    role: str
    model: str
    stored: str
    """Text of the store's answer, or its kind of failure."""
    offered: str
    """Text of the export's, or its kind of failure."""


@dataclass(slots=True)
class Imported:
    """What an import brought."""

    added: int = 0
    already_there: int = 0
    different: int = 0
    """Rows whose key the store has with another reply; the store's stays."""
    damaged: int = 0
    """Rows of the export that are damaged, and were left out."""
    listed: list[OtherText] = field(default_factory=list)
    """The first of the different ones."""

    @property
    def rows(self) -> int:
        """Rows that were read."""
        return self.added + self.already_there + self.different + self.damaged


def import_answers(engine: Engine, archive: Archive, *, on_rows: Callable[[int], None] | None = None) -> Imported:
    """Insert what ``archive`` has and the store lacks. ``on_rows`` is told the rows read so far.

    A part is checked before any of its rows is inserted; the parts before a damaged one stay inserted, and the same
    import goes on once it is mended.

    Raises:
        ConfigError: there is no whole export, a part is damaged, or another version wrote it.
        TapirError: the store cannot be written; what was inserted before stays.
    """
    done = Imported()
    for part in archive.read_manifest().parts:
        for some in archive.read_part(part).iter_slices(ROWS_PER_COMMIT):
            _insert(engine, some.to_dicts(), done)
            if on_rows is not None:
                on_rows(done.rows)
    return done


def _insert(engine: Engine, rows: list[dict[str, Any]], done: Imported) -> None:
    sound = [row for row in rows if not row_faults(row)]
    done.damaged += len(rows) - len(sound)
    with changing(engine) as connection:
        stored = insert_rows(connection, sound)
    done.added += len(sound) - len(stored)
    for row in sound:
        if row["key"] not in stored:
            continue
        there, offered = _said(stored[row["key"]]), (row["status"], row["text"])
        if there == offered:
            done.already_there += 1
            continue
        done.different += 1
        if len(done.listed) < LISTED:
            done.listed.append(OtherText(row["key"], row["role"], row["model"], _shown(*there), _shown(*offered)))


def _said(outcome: Outcome) -> tuple[str, str]:
    return ("answer", outcome.text) if isinstance(outcome, Answer) else (outcome.kind, "")


def _shown(status: str, text: str) -> str:
    return text if status == "answer" else status
