"""Files of instructions as numbered records: JSON, JSON lines, CSV and Parquet, told apart by their content.

A file is read whole into memory. A damaged line of JSON lines or CSV is one broken record; a damaged JSON or Parquet
file is an error, since nothing after the damage can be trusted.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tapir_core.errors import ConfigError

_ACCEPTED = "Alpaca JSON, JSON lines (messages or ShareGPT), CSV with a header, or Parquet"
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
"""Longest wait for a web server to take a connection, and for its next bytes."""

MARKS = ("instruction", "messages", "conversations")
"""Columns of which a CSV or Parquet file must have one."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as the file has it."""

    number: int
    """Its line in JSON lines and CSV, its place in JSON and Parquet; from 1."""
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A record that could not be read."""

    number: int
    reason: str


def read_records(path: str) -> list[Record | BrokenRecord]:
    """All records of a file or of anything else that fsspec opens (`s3://…`).

    Raises:
        ConfigError: the file is missing, not UTF-8, damaged, or of an unknown format.
    """
    content = read_content(path)
    if content.startswith(b"PAR1"):
        return list(_parquet_records(content, path))
    text = _decode(content, path)
    read = {"[": _json_records, "{": _json_line_records}.get(text.lstrip()[:1], _csv_records)
    return list(read(text, path))


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
        content: bytes = files.cat_file(path)
    except OSError as exc:
        why = "" if isinstance(exc, FileNotFoundError) else f": {exc.strerror or exc}".replace(url, public)
        raise ConfigError(f"nothing can be read at {public!r}; check the address and the network{why}") from exc
    except Exception as exc:  # each file system of fsspec has errors of its own
        raise ConfigError(f"{public!r} cannot be read: {str(exc).replace(url, public)}") from exc
    return content


def _decode(content: bytes, path: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path!r} is not UTF-8 (line {line}, byte {exc.start}); save it as UTF-8") from exc


def _json_records(text: str, path: str) -> Iterator[Record | BrokenRecord]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path!r} is damaged JSON: {exc}; repair it or write the file again") from exc
    for number, item in enumerate(items, start=1):
        yield _as_record(number, item)


def _json_line_records(text: str, path: str) -> Iterator[Record | BrokenRecord]:
    lines = enumerate(text.split("\n"), start=1)
    records = [_json_line(number, line) for number, line in lines if line.strip()]
    if all(isinstance(record, BrokenRecord) for record in records):
        raise ConfigError(
            f"{path!r} is neither a JSON list nor JSON lines, since no line is an object by itself; "
            f"expected {_ACCEPTED}"
        )
    yield from records


def _json_line(number: int, line: str) -> Record | BrokenRecord:
    try:
        return _as_record(number, json.loads(line))
    except (ValueError, RecursionError) as exc:
        place = f"{exc.msg} (column {exc.colno})" if isinstance(exc, json.JSONDecodeError) else str(exc)
        return BrokenRecord(number, f"damaged JSON: {place}")


def _as_record(number: int, item: Any) -> Record | BrokenRecord:
    if isinstance(item, dict):
        return Record(number, item)
    return BrokenRecord(number, f"expected an object with fields, got {type(item).__name__}")


def _csv_records(text: str, path: str) -> Iterator[Record | BrokenRecord]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(header, path)
        start = reader.line_num + 1
        for cells in reader:
            if cells:
                yield _csv_record(start, header, cells)
            start = reader.line_num + 1
    except csv.Error as exc:
        raise ConfigError(
            f"{path!r} is damaged CSV: {exc} (line {reader.line_num}); quote cells that hold commas, quotes or line "
            "breaks, or save the file as JSON lines"
        ) from exc


def _csv_record(number: int, header: list[str], cells: list[str]) -> Record | BrokenRecord:
    if len(cells) != len(header):
        return BrokenRecord(number, f"{len(cells)} cells, but the header names {len(header)}")
    return Record(number, dict(zip(header, cells, strict=True)))


def _parquet_records(content: bytes, path: str) -> Iterator[Record | BrokenRecord]:
    try:
        table = pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as exc:
        raise ConfigError(f"{path!r} is damaged Parquet: {exc}; write the file again") from exc
    _check_columns(table.columns, path)
    for number, fields in enumerate(table.iter_rows(named=True), start=1):
        yield Record(number, fields)


def _check_columns(columns: list[str], path: str) -> None:
    if not set(MARKS).intersection(columns):
        found = ", ".join(map(repr, columns[:10])) or "nothing"
        raise ConfigError(
            f"{path!r} is of an unknown format: no column {', '.join(MARKS[:-1])} or {MARKS[-1]} (found {found}); "
            f"expected {_ACCEPTED}"
        )
