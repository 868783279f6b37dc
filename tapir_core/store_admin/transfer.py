"""Answers of a store as files, and files back into a store.

An export is a folder of Parquet parts, named by their content, and a manifest that is written last: a folder without
one is no export. The parts hold the columns of table `answers` and read with any Parquet reader. Answers that a model
gave elsewhere come in beside their requests. An import never overwrites what the store has already.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl
import sqlalchemy as sa

from tapir_core.calls.store_rows import insert_rows
from tapir_core.calls.store_tables import in_groups
from tapir_core.calls.types import Answer, Outcome, Request
from tapir_core.data.dataset import Part, write_part
from tapir_core.errors import ConfigError, TapirError
from tapir_core.paths import MANIFEST, is_part, part_name
from tapir_core.storage import Storage
from tapir_core.store_admin.rows import RowFilter, StoredRow, changing, read_rows, reading, row_faults

_FORMAT = "tapir answers"
ANSWERS_VERSION = "1"
"""Version of the columns below. Raised when table `answers` changes, and only then."""

SCHEMA = pl.Schema(
    {
        "key": pl.String(),
        "role": pl.String(),
        "model": pl.String(),
        "identity": pl.String(),
        "prompt_version": pl.String(),
        "run": pl.String(),
        "sample_index": pl.Int64(),
        "status": pl.String(),
        "text": pl.String(),
        "finish_reason": pl.String(),
        "message": pl.String(),
        "attempts": pl.Int64(),
        "prompt_tokens": pl.Int64(),
        "completion_tokens": pl.Int64(),
        "usd": pl.Float64(),
        "raw": pl.String(),
        "created": pl.Datetime("us"),
    }
)
"""One row per stored outcome; `raw` may be null, `created` is UTC."""

PART_ROWS = 20_000
PART_BYTES = 16 * 2**20
"""Texts and raw replies of one part before compression: what an export holds in memory, a few times over."""
ROWS_PER_COMMIT = 500
_LISTED = 20
"""Rows that are spelt out; all are counted."""


@dataclass(frozen=True, slots=True)
class ArchiveManifest:
    """What `manifest.json` of an export says."""

    rows: int
    parts: tuple[Part, ...]
    chosen: dict[str, Any]
    """The conditions that the rows met; empty for all rows."""
    created: str
    format: str = _FORMAT
    schema_version: str = ANSWERS_VERSION

    def __post_init__(self) -> None:
        if self.rows != sum(part.rows for part in self.parts):
            raise ValueError("the rows of its parts are not those of the whole")
        if any(part.name != part_name(part.sha256) for part in self.parts):
            raise ValueError("a part is not named by its content")  # nor may a name lead out of the folder


class Archive:
    """Reads and writes one export, in a local folder or at any fsspec URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        with self._in_words("reached"):
            self._storage = Storage(url.removeprefix("file://"))

    def check_free(self) -> None:
        """Refuse a place that holds anything but the parts of an export that was interrupted.

        Raises:
            ConfigError: it does, or it cannot be reached.
        """
        others = [name for name in self._names() if not _is_left_over(name)]
        if MANIFEST in others:
            raise ConfigError(f"{self.url!r} holds an export already; name another place, or remove it first")
        if others:
            raise ConfigError(
                f"{self.url!r} is not empty (it holds {others[0]!r}); an export needs a folder of its own"
            )

    def write_part(self, rows: list[StoredRow]) -> Part:
        """Write ``rows`` as one part."""
        with self._in_words("written"):
            return write_part(self._storage, "", pl.DataFrame(rows, schema=SCHEMA, orient="row"))

    def write_manifest(self, manifest: ArchiveManifest) -> None:
        """Declare the export whole. Parts that an interrupted export left are removed first."""
        left_over = {name for name in self._names() if _is_left_over(name)}
        with self._in_words("written"):
            for name in left_over.difference(part.name for part in manifest.parts):
                self._storage.remove(name)
            self._storage.write_bytes(MANIFEST, json.dumps(asdict(manifest), indent=1).encode())

    def read_manifest(self) -> ArchiveManifest:
        """The manifest.

        Raises:
            ConfigError: there is no whole export, or not one that this version reads.
        """
        own = "answers of a teacher in a file of instructions come in with --teacher-of CONFIG"
        text = self._read(MANIFEST, f" holds no whole export: there is no {MANIFEST}; {own}")
        try:
            fields = json.loads(text)
            if fields["format"] != _FORMAT:
                raise ValueError(f"its format is {fields['format']!r}")
            if fields["schema_version"] == ANSWERS_VERSION:
                parts = tuple(Part(**part) for part in fields["parts"])
                return ArchiveManifest(**{**fields, "parts": parts})
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise ConfigError(
                f"{self.url!r}: {MANIFEST} is damaged or of something else than answers ({exc!r})"
            ) from exc
        raise ConfigError(
            f"{self.url!r} has schema version {fields['schema_version']!r}, this version of tapir knows "
            f"{ANSWERS_VERSION!r}; import it with the tapir version that wrote it"
        )

    def read_part(self, part: Part) -> pl.DataFrame:
        """Rows of one part, exactly as they were written.

        Raises:
            ConfigError: the part is missing or not what the manifest says.
        """
        content = self._read(part.name, f": the part {part.name} is missing; copy the whole export")
        found = hashlib.sha256(content).hexdigest()
        if found != part.sha256:
            raise ConfigError(
                f"{self.url!r}: the part {part.name} is damaged: its sha256 is {found[:16]}…, the manifest says "
                f"{part.sha256[:16]}…; copy it again"
            )
        try:
            rows = pl.read_parquet(io.BytesIO(content))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as exc:
            raise ConfigError(f"{self.url!r}: the part {part.name} is no Parquet ({exc})") from exc
        if rows.schema != SCHEMA or rows.height != part.rows or rows["key"].n_unique() != part.rows:
            raise ConfigError(f"{self.url!r}: the part {part.name} does not hold the {part.rows} answers it should")
        return rows

    def _names(self) -> list[str]:
        with self._in_words("read"):
            return self._storage.names("")

    def _read(self, name: str, missing: str) -> bytes:
        """A file's content; ``missing`` ends the error of one that is not there."""
        with self._in_words("read"):
            try:
                return self._storage.read_bytes(name)
            except (FileNotFoundError, NotADirectoryError) as exc:
                raise ConfigError(f"{self.url!r}{missing}") from exc

    @contextmanager
    def _in_words(self, done: str) -> Iterator[None]:
        try:
            yield
        except TapirError:
            raise
        except Exception as exc:  # each file system of fsspec has errors of its own
            raise ConfigError(f"{self.url!r} cannot be {done}: {exc}") from exc


@dataclass(slots=True)
class Exported:
    """What an export wrote."""

    rows: int = 0
    parts: int = 0
    damaged: int = 0
    """Rows left out because they are damaged; `verify` lists them."""


def export_answers(
    engine: sa.Engine, archive: Archive, chosen: RowFilter, *, on_part: Callable[[int], None] | None = None
) -> Exported:
    """Write the rows that ``chosen`` meets, as they were at the start, in the order of their keys.

    Equal rows give equal parts. ``on_part`` is told the rows written so far.

    Raises:
        ConfigError: the place is not free or cannot be written.
        TapirError: the store cannot be read.
    """
    archive.check_free()
    parts, done = [], Exported()
    for batch in _batches(_sound_rows(engine, chosen, done)):
        parts.append(archive.write_part(batch))
        done.rows += len(batch)
        done.parts += 1
        if on_part is not None:
            on_part(done.rows)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    archive.write_manifest(ArchiveManifest(done.rows, tuple(parts), chosen.as_json(), now))
    return done


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


def import_answers(engine: sa.Engine, archive: Archive) -> Imported:
    """Insert what ``archive`` has and the store lacks.

    A part is checked before any of its rows is inserted; the parts before a damaged one stay inserted, and the same
    import goes on once it is fixed.

    Raises:
        ConfigError: there is no whole export, a part is damaged, or another version wrote it.
        TapirError: the store cannot be written; what was inserted before stays.
    """
    done = Imported()
    for part in archive.read_manifest().parts:
        for some in archive.read_part(part).iter_slices(ROWS_PER_COMMIT):
            _insert(engine, some.to_dicts(), done)
    return done


def import_replies(engine: sa.Engine, replies: Iterable[tuple[Request, str]]) -> Imported:
    """Insert texts as whole answers to their requests, as if the model had been asked: without cost, tokens and proof.

    Raises:
        TapirError: the store cannot be written; what was inserted before stays.
    """
    done = Imported()
    for some in in_groups(replies, ROWS_PER_COMMIT):
        _insert(engine, [_row_of(request, text) for request, text in some], done)
    return done


def _row_of(request: Request, text: str) -> StoredRow:
    same = {name: getattr(request, name) for name in ("key", "role", "model", "identity", "sample_index")}
    none = {"message": "", "attempts": 0, "prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0, "raw": None}
    asked = {"prompt_version": request.prompt_version, "run": request.run}
    now = datetime.now(UTC).replace(tzinfo=None)
    return {**same, **asked, **none, "status": "answer", "text": text, "finish_reason": "stop", "created": now}


def _is_left_over(name: str) -> bool:
    """Whether an export that was interrupted may have left it: a part, or a file that was not yet renamed."""
    return is_part(name) or name.startswith((".part-", f".{MANIFEST}."))


def _sound_rows(engine: sa.Engine, chosen: RowFilter, done: Exported) -> Iterator[StoredRow]:
    with reading(engine) as connection:
        for row in read_rows(connection, *chosen.conditions(), by_key=True):
            if row_faults(row):
                done.damaged += 1
            else:
                yield {**row, "created": datetime.fromisoformat(str(row["created"]))}


def _batches(rows: Iterable[StoredRow]) -> Iterator[list[StoredRow]]:
    batch: list[StoredRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row["text"]) + len(row["raw"] or "")
        if len(batch) == PART_ROWS or size >= PART_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _insert(engine: sa.Engine, rows: list[StoredRow], done: Imported) -> None:
    sound = [row for row in rows if not row_faults(row)]
    with changing(engine) as connection:
        stored = insert_rows(connection, sound)
    there = {key: _said(outcome) for key, outcome in stored.items()}
    others = []
    for row in sound:
        offered = row["status"], row["text"]
        kept = there.get(row["key"], offered)
        if kept != offered:
            others.append(OtherText(row["key"], row["role"], row["model"], _shown(*kept), _shown(*offered)))
    done.damaged += len(rows) - len(sound)
    done.added += len(sound) - len(stored)
    done.already_there += len(stored) - len(others)
    done.different += len(others)
    done.listed += others[: _LISTED - len(done.listed)]


def _said(outcome: Outcome) -> tuple[str, str]:
    return ("answer", outcome.text) if isinstance(outcome, Answer) else (outcome.kind, "")


def _shown(status: str, text: str) -> str:
    return text if status == "answer" else status
