"""Records of a user's file, as they come: JSON, JSON lines, CSV or Parquet, told apart by content.

A file is read whole into memory. A damaged line of JSON lines or CSV is one broken record; a damaged JSON or Parquet
file is an error, since nothing after the damage can be trusted.
"""

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import polars as pl

from tapir_core.errors import ConfigError
from tapir_core.text import first_few

Fields = Mapping[str, Any]
T = TypeVar("T")

_ACCEPTED = "Alpaca JSON, JSON lines (messages or ShareGPT), CSV with a header, or Parquet"
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
"""Longest wait for a web server to take a connection, and for its next bytes."""

_LISTED = 20
"""Bad rows that an error spells out."""

MARKS = ("instruction", "messages", "conversations")
"""Columns of which a CSV or Parquet file must have one."""


class BadRecordError(ValueError):
    """Raised when a record is no instruction, or cannot be read at all; the message says why."""


class Record(NamedTuple):
    """One record as the file has it."""

    number: int
    """Its line in JSON lines and CSV, its place in JSON and Parquet; from 1."""
    item: Any
    """What stands there; the error where it cannot be read."""

    @property
    def fields(self) -> dict[str, Any]:
        """Field → value.

        Raises:
            BadRecordError: it has no fields.
        """
        if isinstance(self.item, dict):
            return self.item
        is_told = isinstance(self.item, BadRecordError)
        raise BadRecordError(
            self.item if is_told else f"expected an object with fields, got {type(self.item).__name__}"
        )


Items = Iterable[tuple[int, Any]]
"""Number and item of each record."""


Names = Mapping[str, str]
"""Field → its name in a file that calls it otherwise."""
NO_NAMES: Names = MappingProxyType({})


def read_records(path: str, *, tables: bool = True, columns: Names = NO_NAMES) -> list[Record]:
    """All records of a file or of anything else that fsspec opens (`s3://…`); without ``tables``, it is one of JSON.

    Raises:
        ConfigError: the file is missing, not UTF-8, damaged, of an unknown format, or lacks one of ``columns``.
    """
    content = read_content(path)
    if tables and content.startswith(b"PAR1"):
        items = _parquet_rows(content, path, columns)
    else:
        text = decode(content, path)
        first = text.lstrip()[:1]
        if tables and first not in ("[", "{"):
            items = _csv_rows(text, path, columns)
        else:
            items = (_json_list if first == "[" else _json_lines)(text, path)
    return [Record(*each) for each in (_renamed(items, path, columns) if columns else items)]


def _renamed(items: Items, path: str, columns: Names) -> Items:
    """Items in which ``columns`` have our names; a field of such a name that is not meant is left out."""
    listed, taken = list(items), {*columns, *columns.values()}
    _check_names({name: None for _, item in listed if isinstance(item, dict) for name in item}, path, columns)
    for number, item in listed:
        if isinstance(item, dict):
            meant = {name: item[theirs] for name, theirs in columns.items() if theirs in item}
            item = {name: value for name, value in item.items() if name not in taken} | meant
        yield number, item


def _check_names(found: Collection[str], path: str, columns: Names) -> None:
    if lacking := [f"{name} = {theirs!r}" for name, theirs in columns.items() if theirs not in found]:
        there = first_few([*map(repr, found)], _LISTED) or "nothing"
        raise ConfigError(f"{path!r} has no such column: {', '.join(lacking)} (found {there}); correct `columns`")


def read_content(path: str) -> bytes:
    """Bytes of a file or URL.

    Raises:
        ConfigError: it is not there or cannot be read.
    """
    if "://" in path:
        return _read_remote(path)
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as exc:
        raise ConfigError(f"there is no file {path!r}; check the path and the folder you start in") from exc
    except OSError as exc:
        raise ConfigError(f"{path!r} cannot be read: {exc.strerror or exc}") from exc


def _read_remote(url: str) -> bytes:
    import aiohttp  # a local file needs neither
    import fsspec

    public = url.partition("?")[0]  # a query may be a signature
    patience = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
    of_http = {"client_kwargs": {"timeout": patience, "trust_env": True}} if url.startswith("http") else {}
    try:
        files, path = fsspec.url_to_fs(url, **of_http)
        return bytes(files.cat_file(path))
    except OSError as exc:
        why = "" if isinstance(exc, FileNotFoundError) else f": {exc.strerror or exc}".replace(url, public)
        raise ConfigError(f"nothing can be read at {public!r}; check the address and the network{why}") from exc
    except Exception as exc:  # each file system of fsspec has errors of its own
        raise ConfigError(f"{public!r} cannot be read: {str(exc).replace(url, public)}") from exc


def decode(content: bytes, path: str) -> str:
    """The text of a file.

    Raises:
        ConfigError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path!r} is not UTF-8 (line {line}, byte {exc.start}); save it as UTF-8") from exc


def _json_list(text: str, path: str) -> Items:
    try:
        return enumerate(json.loads(text), start=1)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path!r} is damaged JSON: {exc}; repair it or write the file again") from exc


def _json_lines(text: str, path: str) -> Items:
    items = [(number, _json_line(line)) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not any(isinstance(item, dict) for _, item in items):
        raise ConfigError(
            f"{path!r} is neither a JSON list nor JSON lines, since no line is an object by itself; "
            "write a list of objects, or an object a line"
        )
    return items


def _json_line(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as exc:
        return BadRecordError(f"damaged JSON: {exc.msg} (column {exc.colno})")
    except (ValueError, RecursionError) as exc:
        return BadRecordError(f"damaged JSON: {exc}")


def _csv_rows(text: str, path: str, columns: Names) -> Items:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(header, path, columns)
        start = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(header):
                yield start, dict(zip(header, cells, strict=True))
            elif cells:
                yield start, BadRecordError(f"{len(cells)} cells, but the header names {len(header)}")
            start = reader.line_num + 1
    except csv.Error as exc:
        raise ConfigError(
            f"{path!r} is damaged CSV: {exc} (line {reader.line_num}); quote cells that hold commas, quotes or line "
            "breaks, or save the file as JSON lines"
        ) from exc


def _parquet_rows(content: bytes, path: str, columns: Names) -> Items:
    try:
        table = pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as exc:
        raise ConfigError(f"{path!r} is damaged Parquet: {exc}; write the file again") from exc
    _check_columns(table.columns, path, columns)
    return enumerate(table.iter_rows(named=True), start=1)


def _check_columns(columns: list[str], path: str, names: Names) -> None:
    _check_names(columns, path, names)
    if not set(MARKS).intersection([*columns, *names]):
        found = ", ".join(map(repr, columns[:10])) or "nothing"
        raise ConfigError(
            f"{path!r} is of an unknown format: no column {', '.join(MARKS[:-1])} or {MARKS[-1]} (found {found}); "
            f"expected {_ACCEPTED}"
        )


def read_each(
    path: str, read_one: Callable[[Fields], T], *, tables: bool = True, columns: Names = NO_NAMES
) -> tuple[list[tuple[Record, T]], list[str]]:
    """Every record of a file with what it holds; and in words those that hold nothing, with their numbers.

    Raises:
        ConfigError: as `read_records`.
    """
    found: list[tuple[Record, T]] = []
    bad: list[str] = []
    for record in read_records(path, tables=tables, columns=columns):
        try:
            found.append((record, read_one(record.fields)))
        except BadRecordError as exc:
            bad.append(f"row {record.number}: {exc}")
    return found, bad


def first_of(bad_rows: list[str]) -> list[str]:
    """As many of them as an error spells out, and how many more there are."""
    more = [f"… and {len(bad_rows) - _LISTED} more"] if len(bad_rows) > _LISTED else []
    return [*bad_rows[:_LISTED], *more]


def indented(bad_rows: list[str]) -> list[str]:
    """`first_of`, to stand below a sentence."""
    return [f"  {row}" for row in first_of(bad_rows)]
