"""Answers of a store into Parquet, at any place that fsspec writes to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine

from tapir_core.store_admin.archive import Archive, ArchiveManifest
from tapir_core.store_admin.faults import row_faults
from tapir_core.store_admin.filters import RowFilter
from tapir_core.store_admin.rows import COLUMNS, stream_rows

__all__ = ["Exported", "export_answers"]

PART_ROWS = 20_000
PART_BYTES = 16 * 2**20
"""Texts and raw replies of one part before compression: what an export holds in memory, a few times over."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    rows: int
    parts: int
    damaged: int
    """Rows left out because they are damaged; `verify` lists them."""


def export_answers(
    engine: Engine, archive: Archive, chosen: RowFilter, *, on_part: Callable[[int], None] | None = None
) -> Exported:
    """Write the rows that ``chosen`` meets, as they were at the start, in the order of their keys.

    Equal rows give equal parts. ``on_part`` is told the rows written so far.

    Raises:
        ConfigError: the place is not free or cannot be written.
        TapirError: the store cannot be read.
    """
    archive.check_free()
    parts, damaged, rows = [], _Counter(), 0
    for batch in _batches(_sound_rows(engine, chosen, damaged)):
        parts.append(archive.write_part(batch))
        rows += len(batch)
        if on_part is not None:
            on_part(rows)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    archive.write_manifest(ArchiveManifest(rows, tuple(parts), chosen.as_json(), now))
    return Exported(rows, len(parts), damaged.rows)


@dataclass(slots=True)
class _Counter:
    rows: int = 0


def _sound_rows(engine: Engine, chosen: RowFilter, damaged: _Counter) -> Iterator[dict[str, Any]]:
    for row in stream_rows(engine, chosen.conditions(), by_key=True):
        if row_faults(row):
            damaged.rows += 1
            continue
        created = row["created"]
        row["created"] = datetime.fromisoformat(created) if isinstance(created, str) else created
        yield {name: row[name] for name in COLUMNS}


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row["text"]) + len(row["raw"] or "")
        if len(batch) == PART_ROWS or size >= PART_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
