"""An export of answers as files: Parquet parts named by their content, and a manifest that is written last.

A folder without a manifest is no export. The parts hold the columns of table `answers` and read with any Parquet
reader.
"""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import polars as pl

from tapir_core.data.dataset import Part
from tapir_core.errors import ConfigError, TapirError
from tapir_core.paths import MANIFEST, is_part, part_name
from tapir_core.storage import Storage

__all__ = ["ANSWERS_VERSION", "SCHEMA", "Archive", "ArchiveManifest"]

FORMAT = "tapir answers"
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

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ArchiveManifest:
    """What `manifest.json` of an export says."""

    rows: int
    parts: tuple[Part, ...]
    chosen: dict[str, Any]
    """The conditions that the rows met; empty for all rows."""
    created: str
    format: str = FORMAT
    schema_version: str = ANSWERS_VERSION


class Archive:
    """Reads and writes one export, in a local folder or at any fsspec URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._storage = self._try("reached", lambda: Storage(url.removeprefix("file://")))

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

    def write_part(self, rows: list[dict[str, Any]]) -> Part:
        """Write ``rows`` as one part."""
        buffer = io.BytesIO()
        pl.DataFrame(rows, schema=SCHEMA, orient="row").write_parquet(buffer, compression="zstd", statistics=False)
        content = buffer.getvalue()
        sha256 = hashlib.sha256(content).hexdigest()
        part = Part(part_name(sha256), len(rows), sha256)
        self._try("written", lambda: self._storage.write_bytes(part.name, content))
        return part

    def write_manifest(self, manifest: ArchiveManifest) -> None:
        """Declare the export whole. Parts that an interrupted export left are removed first."""
        listed = {part.name for part in manifest.parts}
        for name in self._names():
            if _is_left_over(name) and name not in listed:
                self._try("written", partial(self._storage.remove, name))
        text = json.dumps(asdict(manifest), indent=1)
        self._try("written", lambda: self._storage.write_bytes(MANIFEST, text.encode()))

    def read_manifest(self) -> ArchiveManifest:
        """The manifest.

        Raises:
            ConfigError: there is no whole export, or not one that this version reads.
        """
        try:
            text = self._try("read", lambda: self._storage.read_bytes(MANIFEST))
        except FileNotFoundError as exc:
            raise ConfigError(f"{self.url!r} holds no whole export: there is no {MANIFEST}") from exc
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise ValueError(f"its format is {fields['format']!r}")
            self._check_version(fields["schema_version"])
            return _read_manifest(fields)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise ConfigError(
                f"{self.url!r}: {MANIFEST} is damaged or of something else than answers ({exc!r})"
            ) from exc

    def read_part(self, part: Part) -> pl.DataFrame:
        """Rows of one part, exactly as they were written.

        Raises:
            ConfigError: the part is missing or not what the manifest says.
        """
        try:
            content = self._try("read", lambda: self._storage.read_bytes(part.name))
        except FileNotFoundError as exc:
            raise ConfigError(f"{self.url!r}: the part {part.name} is missing; copy the whole export") from exc
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

    def _check_version(self, found: str) -> None:
        if found != ANSWERS_VERSION:
            raise ConfigError(
                f"{self.url!r} has schema version {found!r}, this version of tapir knows {ANSWERS_VERSION!r}; import "
                "it with the tapir version that wrote it"
            )

    def _names(self) -> list[str]:
        return self._try("read", lambda: self._storage.names(""))

    def _try(self, what: str, work: Callable[[], T]) -> T:
        """Translate the errors of a file system; a file that is not there is the caller's to explain."""
        try:
            return work()
        except TapirError:
            raise
        except Exception as exc:  # each file system of fsspec has errors of its own
            if what == "read" and isinstance(exc, FileNotFoundError):
                raise
            raise ConfigError(f"{self.url!r} cannot be {what}: {exc}") from exc


def _read_manifest(fields: dict[str, Any]) -> ArchiveManifest:
    parts = tuple(Part(**part) for part in fields.pop("parts"))
    manifest = ArchiveManifest(**fields, parts=parts)
    if manifest.rows != sum(part.rows for part in parts):
        raise ValueError("the rows of its parts are not those of the whole")
    if any(part.name != part_name(part.sha256) for part in parts):
        raise ValueError("a part is not named by its content")  # nor may a name lead out of the folder
    return manifest


def _is_left_over(name: str) -> bool:
    """Whether an export that was interrupted may have left it: a part, or a file that was not yet renamed."""
    return is_part(name) or name.startswith((".part-", f".{MANIFEST}."))
