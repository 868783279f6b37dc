"""Files of a user as tables: the pool and the held-out set, with what was wrong in them counted.

Tables are sorted by instruction id, so the order of a file's rows changes nothing. Rows with one id are merged: of
several references or sources the first in alphabetical order stays, and one row in dev puts all of them in dev.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from tapir_core.data.formats import BrokenRecord, Record, read_records
from tapir_core.data.rows import BadRecordError, Fields, Row, read_heldout_row, read_row
from tapir_core.errors import ConfigError

__all__ = ["HELDOUT_SCHEMA", "POOL_SCHEMA", "BadRow", "ReadHeldout", "ReadPool", "read_heldout", "read_pool"]

OnBadRow = Literal["stop", "skip"]

POOL_SCHEMA = dict.fromkeys(("instruction_id", "instruction", "system", "source", "reference"), pl.String)
"""One row per instruction; `system` and `reference` may be null."""

HELDOUT_SCHEMA = dict.fromkeys(
    ("instruction_id", "instruction", "system", "task_type", "reference", "split"), pl.String
)
"""One row per instruction; `system` and `task_type` may be null."""

LISTED_BAD_ROWS = 20
"""Bad rows that an error spells out."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no instruction."""

    number: int
    """Line in JSON lines and CSV, place in JSON and Parquet; from 1."""
    reason: str


@dataclass(frozen=True, slots=True)
class ReadPool:
    """A pool and what was found in its file."""

    rows: pl.DataFrame
    """`POOL_SCHEMA`."""
    bad_rows: list[BadRow]
    duplicates: int
    """Rows merged into another with the same instruction id."""
    dropped_turns: int
    """User turns after the first, over all rows."""


@dataclass(frozen=True, slots=True)
class ReadHeldout:
    """A held-out set and what was found in its file."""

    rows: pl.DataFrame
    """`HELDOUT_SCHEMA`."""
    bad_rows: list[BadRow]
    duplicates: int
    dropped_turns: int


@dataclass(frozen=True, slots=True)
class _ReadRows:
    rows: list[Row]
    """Without duplicates, sorted by instruction id."""
    bad_rows: list[BadRow]
    duplicates: int
    dropped_turns: int


def read_pool(path: str, *, on_bad_row: OnBadRow, limit: int | None, rng: random.Random) -> ReadPool:
    """The pool in a file of any accepted format.

    Args:
        path: a file, or a URL that fsspec opens.
        on_bad_row: stop with every bad row listed, or skip and count them.
        limit: size of the random sample that is taken; nothing takes all.
        rng: draws the sample.

    Raises:
        ConfigError: the file cannot be read, has bad rows under `stop`, or holds no instruction.
    """
    read = _read(path, read_row, on_bad_row)
    rows = read.rows
    if limit is not None and limit < len(rows):
        rows = sorted(rng.sample(rows, limit), key=lambda row: row.instruction_id)
    return ReadPool(_table(rows, POOL_SCHEMA), read.bad_rows, read.duplicates, read.dropped_turns)


def read_heldout(path: str, *, on_bad_row: OnBadRow) -> ReadHeldout:
    """The held-out set in a file of any accepted format, each row with a reference.

    Raises:
        ConfigError: as `read_pool`, or no row belongs to the test split.
    """
    read = _read(path, read_heldout_row, on_bad_row)
    if not any(row.split == "test" for row in read.rows):
        raise ConfigError(f'{path!r} has no row of the test split, which is the reported one; set `split` = "test"')
    return ReadHeldout(_table(read.rows, HELDOUT_SCHEMA), read.bad_rows, read.duplicates, read.dropped_turns)


def _read(path: str, read_one: Callable[[Fields], Row], on_bad_row: OnBadRow) -> _ReadRows:
    records = read_records(path)
    results = [_read_record(record, read_one) for record in records]
    bad_rows = [result for result in results if isinstance(result, BadRow)]
    good_rows = [result for result in results if isinstance(result, Row)]
    if bad_rows and (on_bad_row == "stop" or not good_rows):
        raise ConfigError(_bad_rows_in_words(path, bad_rows, len(records)))
    if not good_rows:
        raise ConfigError(f"{path!r} holds no instruction; bring a file with at least one row")
    rows = _merge(good_rows)
    return _ReadRows(
        rows=rows,
        bad_rows=bad_rows,
        duplicates=len(good_rows) - len(rows),
        dropped_turns=sum(row.dropped_turns for row in good_rows),
    )


def _read_record(record: Record | BrokenRecord, read_one: Callable[[Fields], Row]) -> Row | BadRow:
    if isinstance(record, BrokenRecord):
        return BadRow(record.number, record.reason)
    try:
        return read_one(record.fields)
    except BadRecordError as exc:
        return BadRow(record.number, str(exc))


def _bad_rows_in_words(path: str, bad_rows: list[BadRow], total: int) -> str:
    listed = [f"  row {row.number}: {row.reason}" for row in bad_rows[:LISTED_BAD_ROWS]]
    if len(bad_rows) > LISTED_BAD_ROWS:
        listed.append(f"  … and {len(bad_rows) - LISTED_BAD_ROWS} more")
    if len(bad_rows) == total:
        remedy = "No row is an instruction: docs/own-data.md shows the accepted formats."
    else:
        remedy = 'Repair them, or set data.on_bad_row = "skip" to go on without them; they are counted.'
    return "\n".join([f"{path!r}: {len(bad_rows)} of {total} rows are broken:", *listed, remedy])


def _merge(rows: Iterable[Row]) -> list[Row]:
    """One row for each instruction id, whatever order the rows come in."""
    merged: dict[str, Row] = {}
    for row in rows:
        other = merged.get(row.instruction_id, row)
        merged[row.instruction_id] = replace(
            row,
            source=min(row.source, other.source),
            reference=_first(row.reference, other.reference),
            task_type=_first(row.task_type, other.task_type),
            split=min(row.split, other.split),
        )
    return [merged[instruction_id] for instruction_id in sorted(merged)]


def _first(*texts: str | None) -> str | None:
    return min((text for text in texts if text is not None), default=None)


def _table(rows: list[Row], schema: dict[str, type[pl.String]]) -> pl.DataFrame:
    return pl.DataFrame({name: [getattr(row, name) for row in rows] for name in schema}, schema=schema)
