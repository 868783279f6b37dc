"""Records of a user's file, as they come: JSON, JSON lines, CSV, Parquet or Arrow, told apart by content.

Records are read as they are asked for, and a file is unpacked on the way where it is compressed. So memory does not
grow with JSON lines or CSV; a JSON list, and the bytes of Parquet and Arrow, are held whole.

A damaged line of JSON lines or CSV is one broken record; a damaged JSON or Parquet file is an error, since nothing
after the damage can be trusted. A name that stands twice in an object breaks the record, and one that names two columns
is an error: nothing tells which is meant.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, count, starmap
from types import MappingProxyType
from typing import IO, Any, NamedTuple, NoReturn, TypeVar

from tapir_core import errors, storage
from tapir_core.text import first_few

Fields = Mapping[str, Any]
T = TypeVar("T")

_ACCEPTED = "Alpaca JSON, JSON lines (messages or ShareGPT), CSV with a header, Parquet or Arrow"
_LISTED = 20
"""Bad rows that an error spells out."""

MARKS = ("instruction", "messages", "conversations")
"""Columns of which a CSV or Parquet file must have one."""

_LIKELY = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "chat"),
    "instruction": ("instruction", "question", "prompt", "query", "problem", "task", "user", "human", "input", "text"),
    "input": ("input", "context"),
    "system": ("system", "system_prompt", "system_message"),
}
"""Field → what files call it, the likeliest first."""

MEDIA = ("image", "images", "audio", "audios", "video", "videos")
"""Columns of which a row of a table says only whether they have something, since it may be large."""

_LONGEST_CELL = 2**31 - 1
"""Characters of a CSV cell. Python's csv module stops at 131,072 by default."""


class BadRecordError(ValueError):
    """Raised when a record is no instruction, or cannot be read at all; the message says why."""


class SaidTwiceError(BadRecordError):
    """Raised when a record gives one thing twice."""


class UnknownLayout(errors.ConfigError):
    """Raised when a file has no field of an instruction; ``likely`` says which it has under other names."""

    def __init__(self, path: str, found: Collection[str], marks: Collection[str] = MARKS) -> None:
        self.found, self.likely = tuple(found), likely_names(found)
        *others, last = marks
        there = first_few([*map(repr, found)], _LISTED) or "nothing"
        what = f"{path!r} is of an unknown format: no column {', '.join(others)} or {last} (found {there}); "
        remedy = f"expected {_ACCEPTED}"
        if marks == MARKS:
            meant = ", ".join(f"{name} = {json.dumps(theirs)}" for name, theirs in self.likely.items())
            shown = meant or 'instruction = "NAME"'
            named = (
                f"name yours in data.pool.columns (of a held-out set in data.heldout.columns): columns = {{ {shown} }}"
            )
            remedy = named if self.likely else f"{remedy}; or {named}"
        super().__init__(what + remedy)


def likely_names(found: Collection[str]) -> dict[str, str]:
    """Fields that ``found`` most likely are, though of another name: field → name; none without an instruction."""
    known, likely = {name.strip().casefold().replace(" ", "_"): name for name in reversed([*found])}, dict[str, str]()
    for field, theirs in _LIKELY.items():
        named = next((known[each] for each in theirs if each in known and known[each] not in likely.values()), field)
        if named != field and not (field == "instruction" and "messages" in likely):
            likely[field] = named
    return likely if {"instruction", "messages"} & likely.keys() else {}


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


def read_records(
    path: str,
    *,
    tables: bool = True,
    columns: Names = NO_NAMES,
    fields: Collection[str] = (),
    marks: Collection[str] = MARKS,
) -> Iterator[Record]:
    """The records of a file or of anything else that fsspec opens (`s3://…`), as they are asked for.

    Args:
        path: the file.
        tables: whether it may be another format than JSON.
        columns: what it calls otherwise.
        fields: those that are read; columns of a table that are none of them are not converted. Empty: all.
        marks: of which a table must have one.

    Raises:
        ConfigError: the file is missing, damaged, of an unknown format, lacks one of ``columns``, or has one twice.
            What only its end shows comes after the last record.
    """
    items = _items(path, tables, _Wanted(path, columns, {*fields, *columns.values()} if fields else None, marks))
    return starmap(Record, _renamed(items, path, columns) if columns else items)


def _items(path: str, tables: bool, wanted: "_Wanted") -> Items:
    with _opened(path) as (stream, packed):
        head = stream.peek()
        try:
            if tables and head.startswith((b"PAR1", *_ARROW)):
                yield from _table_rows(stream.read(), wanted)
                return
            first = head.decode(_encoding_of(head, path), "ignore").lstrip()[:1]
            if first == "[":
                yield from _json_list(decode(stream.read(), path), path)
            elif first == "{" or not tables:
                yield from _json_lines(_lines(stream, path, "\n"), path)
            else:
                yield from _csv_rows(_lines(stream, path, ""), wanted)
        except _DAMAGED as exc:
            if not packed:
                raise
            raise _cannot_unpack(path, packed, exc) from exc


class _Wanted(NamedTuple):
    """What is read of a table."""

    path: str
    names: Names
    columns: Collection[str] | None
    """None: all."""
    marks: Collection[str]

    def columns_of(self, found: Sequence[str]) -> list[str]:
        """Those that are read of the ones that are there.

        Raises:
            ConfigError: one is there twice, or an expected one is not.
        """
        _check_names(found, self.path, self.names)
        if not {*self.marks}.intersection([*found, *self.names]):
            raise UnknownLayout(self.path, found, self.marks)
        wanted = [name for name in found if self.columns is None or name in self.columns]
        if twice := [name for name, count in Counter(wanted).items() if count > 1]:
            raise errors.ConfigError(
                f"{self.path!r} has several columns {twice[0]!r}; rename all but one, or leave them out"
            )
        return wanted


def _renamed(items: Items, path: str, columns: Names) -> Items:
    """Items in which ``columns`` have our names; a field of such a name that is not meant is left out.

    So is every other instruction or conversation, where ``columns`` say which one is meant.
    """
    taken, found = {*columns, *columns.values(), *(MARKS if {*MARKS} & columns.keys() else ())}, dict[str, None]()
    for number, item in items:
        if isinstance(item, dict):
            found.update(dict.fromkeys(item))
            meant = {name: item[theirs] for name, theirs in columns.items() if theirs in item}
            item = {name: value for name, value in item.items() if name not in taken} | meant
        yield number, item
    _check_names(found, path, columns)


def _check_names(found: Collection[str], path: str, columns: Names) -> None:
    if lacking := [f"{name} = {theirs!r}" for name, theirs in columns.items() if theirs not in found]:
        there = first_few([*map(repr, found)], _LISTED) or "nothing"
        raise errors.ConfigError(
            f"{path!r} has no such column: {', '.join(lacking)} (found {there}); correct `columns`"
        )


_PACKED: Mapping[bytes, tuple[str, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda packed: gzip.GzipFile(fileobj=packed, mode="rb")),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMAFile),
    **dict.fromkeys(
        (b"\x28\xb5\x2f\xfd", *(bytes([first, 0x2A, 0x4D, 0x18]) for first in range(0x50, 0x60))),  # skippable frames
        ("zstd", lambda packed: _arrow_unpacked(packed, "zstd")),
    ),
    b"\x04\x22\x4d\x18": ("lz4", lambda packed: _arrow_unpacked(packed, "lz4")),
    **dict.fromkeys((b"PK\x03\x04", b"PK\x05\x06"), ("zip", lambda packed: _only_file(packed))),  # the latter: empty
}
"""First bytes of a compressed file → what it is, and what opens its content."""
_BUFFER, _ROWS = 1 << 20, 10_000
"""Bytes that are read at once, of which the first tell the format; rows of a table that are converted at once."""
_LAYERS = 4
"""Most times that a file is unpacked; one may hold itself."""
_ARCHIVES = {
    (0, b"7z\xbc\xaf\x27\x1c"): "a 7z archive",
    (0, b"Rar!\x1a\x07"): "a RAR archive",
    (257, b"ustar"): "a tar archive",
}
"""Place and bytes → what has them there, and is not unpacked."""
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
_ARROW = (b"ARROW1", b"\xff\xff\xff\xff")
"""First bytes of Arrow's two formats, file and stream."""
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order mark → encoding; the longer mark of those that begin alike stands first."""
_HEAD = slice(200)
"""Bytes in which the zero bytes of UTF-16 are looked for: of ASCII, such as the names of columns, every other one."""


@contextmanager
def _opened(path: str) -> Iterator[tuple["io.BufferedReader[Any]", str]]:
    """The unpacked content of a file, and what it is compressed by, if at all."""
    with storage.open_content(path) as file, ExitStack() as layers:
        stream: io.BufferedReader[Any] = layers.enter_context(io.BufferedReader(file, _BUFFER))
        packed = ""
        for _ in range(_LAYERS):
            head = stream.peek()
            name, unpack = next((each for mark, each in _PACKED.items() if head.startswith(mark)), ("", None))
            if unpack is None:
                break
            packed = name
            try:
                stream = layers.enter_context(io.BufferedReader(unpack(stream), _BUFFER))
                stream.peek()
            except _DAMAGED as exc:
                raise _cannot_unpack(path, packed, exc) from exc
        head = stream.peek()
        known = [name for (start, mark), name in _ARCHIVES.items() if head.startswith(mark, start)]
        if known or path.endswith(".br"):  # the content of brotli does not tell
            raise errors.ConfigError(
                f"{path!r} is {[*known, 'compressed (brotli)'][0]}; unpack it, and name the file in it"
            )
        yield stream, packed


def _cannot_unpack(path: str, packed: str, exc: Exception) -> errors.ConfigError:
    return errors.ConfigError(
        f"{path!r} is compressed ({packed}) and cannot be read: {exc}; fetch it again, or unpack it and name the file "
        "in it"
    )


def _arrow_unpacked(packed: IO[bytes], name: str) -> Any:
    import pyarrow as pa  # takes long to import, and JSON and CSV do without

    return pa.input_stream(pa.PythonFile(packed, "r"), compression=name)


def _only_file(packed: IO[bytes]) -> IO[bytes]:
    """The file in a zip archive.

    Raises:
        ValueError: it has several, as a workbook of Excel has.
    """
    archive = zipfile.ZipFile(io.BytesIO(packed.read()))
    names = [
        each
        for each in archive.namelist()
        if not f"/{each}".startswith("/__MACOSX/") and each.rpartition("/")[2][:1] not in ("", ".")
    ]
    if "xl/workbook.xml" in names:
        raise ValueError("it is a workbook of Excel, save the sheet as CSV")
    if len(names) != 1:
        several = f"it has {len(names)} files ({first_few(names, 3)}), name one of them"
        raise ValueError(several if names else "it has no file")
    return archive.open(names[0])


def read_text(path: str) -> str:
    """The text of a file or URL.

    Raises:
        ConfigError: it cannot be read, is in another encoding, or no text.
    """
    return decode(storage.read_content(path), path)


def decode(content: bytes, path: str) -> str:
    """The text of a file in UTF-8, or in what its byte order mark says.

    Raises:
        ConfigError: it is in another encoding, or no text.
    """
    encoding = _encoding_of(content, path)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        name = encoding.removesuffix("-sig").upper()
        raise errors.ConfigError(f"{path!r} is not {name} (line {line}, byte {exc.start}); save it as UTF-8") from exc
    if "\0" in text:
        raise errors.ConfigError(
            f"{path!r} is no text: it has a zero byte (character {text.index(chr(0))}); save it as UTF-8"
        )
    return text


def _encoding_of(content: bytes, path: str) -> str:
    encoding = next((name for mark, name in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
    fewer, more = sorted(content[_HEAD][side::2].count(0) for side in (0, 1))
    if encoding == "utf-8" and not fewer and more > 1 + len(content[_HEAD]) / 20:
        raise errors.ConfigError(f"{path!r} seems to be UTF-16 without a byte order mark; save it as UTF-8")
    return encoding


def _lines(stream: "io.BufferedReader[Any]", path: str, newline: str) -> Iterator[str]:
    """Lines of a text, their ends included; ``newline`` as `open` takes it."""
    with io.TextIOWrapper(stream, _encoding_of(stream.peek(), path), newline=newline) as text:
        try:
            for line in text:
                if "\0" in line:
                    _refuse(path)
                yield line
        except UnicodeDecodeError:
            _refuse(path)


def _refuse(path: str) -> NoReturn:
    """Say where a file is no text, which takes another look at all of it."""
    with _opened(path) as (stream, _):
        decode(stream.read(), path)
    raise errors.ConfigError(f"{path!r} changes while it is read; start again")


def _once(pairs: list[tuple[str, Any]]) -> Any:
    """An object of JSON; the error in its place where a name stands in it twice, or in an object in it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        return SaidTwiceError(f"`{twice}` stands twice in one object; leave one out")
    if _MAY_SAY_TWICE.isdisjoint(map(type, found.values())):
        return found
    parts = chain.from_iterable(value if isinstance(value, list) else [value] for value in found.values())
    return next((each for each in parts if isinstance(each, SaidTwiceError)), found)


_MAY_SAY_TWICE = frozenset((list, SaidTwiceError))
_JSON = json.JSONDecoder(object_pairs_hook=_once)


def read_json(text: str) -> Any:
    """What a text of JSON holds; `SaidTwiceError` in place of an object that says something twice.

    Raises:
        ValueError, RecursionError: it is no JSON.
    """
    # `decode` looks for blanks with two regular expressions, which take a third of the time of a line of 700 bytes.
    text = text.rstrip(" \t\n\r")
    found, end = _JSON.raw_decode(text, len(text) - len(text.lstrip(" \t\n\r")))
    return found if end == len(text) else _JSON.decode(text)


def _json_list(text: str, path: str) -> Items:
    try:
        return enumerate(read_json(text), start=1)
    except (ValueError, RecursionError) as exc:
        raise errors.ConfigError(f"{path!r} is damaged JSON: {exc}; repair it or write the file again") from exc


def _json_lines(lines: Iterable[str], path: str) -> Items:
    has_objects = False
    for number, line in enumerate(lines, start=1):
        if not line.isspace():
            try:
                item = read_json(line)
            except json.JSONDecodeError as exc:
                item = BadRecordError(f"damaged JSON: {exc.msg} (column {exc.colno})")
            except (ValueError, RecursionError) as exc:
                item = BadRecordError(f"damaged JSON: {exc}")
            has_objects = has_objects or isinstance(item, dict | SaidTwiceError)
            yield number, item
    if not has_objects:
        raise errors.ConfigError(
            f"{path!r} is neither a JSON list nor JSON lines, since no line is an object by itself; "
            "write a list of objects, or an object a line"
        )


def _delimiter(line: str, wanted: _Wanted) -> str:
    """That with which the header of a table names a column that is looked for, or else the most columns."""
    names = {each: [*map(str.strip, next(csv.reader([line], delimiter=each), []))] for each in ",\t;|"}
    marks = {*wanted.marks, *wanted.names.values()}
    return max(names, key=lambda each: (not marks.isdisjoint(names[each]), len(names[each])))


def _csv_rows(lines: Iterator[str], wanted: _Wanted) -> Items:
    csv.field_size_limit(_LONGEST_CELL)
    head = next(lines, "")
    reader = csv.reader(chain([head], lines), strict=True, delimiter=_delimiter(head, wanted))
    try:
        header = [name.strip() for name in next(reader, [])]
        columns = {*wanted.columns_of(header)}
        start = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(header):
                yield start, {name: cell for name, cell in zip(header, cells, strict=True) if name in columns}
            elif cells:
                yield start, BadRecordError(f"{len(cells)} cells, but the header names {len(header)}")
            start = reader.line_num + 1
    except csv.Error as exc:
        raise errors.ConfigError(
            f"{wanted.path!r} is damaged CSV: {exc} (line {reader.line_num}); quote cells that hold delimiters, quotes "
            "or line breaks, or save the file as JSON lines"
        ) from exc


def _table_rows(content: bytes, wanted: _Wanted) -> Items:
    """Rows of Parquet or Arrow; columns that are not wanted may hold what Python has no value for."""
    import pyarrow as pa
    from pyarrow import parquet

    kind, file, numbers = "Parquet" if content.startswith(b"PAR1") else "Arrow", pa.BufferReader(content), count(1)
    try:
        if kind == "Parquet":
            opened = parquet.ParquetFile(file)
            batches = opened.iter_batches(_ROWS, columns=wanted.columns_of(opened.schema_arrow.names))
        else:
            table = (pa.ipc.open_file if content.startswith(_ARROW[0]) else pa.ipc.open_stream)(file).read_all()
            batches = table.select(wanted.columns_of(table.column_names)).to_batches(_ROWS)
        for batch in batches:
            columns = {name: _values(name, batch.column(name), wanted.path) for name in batch.schema.names}
            for row in zip(*columns.values(), strict=True):
                yield next(numbers), dict(zip(columns, row, strict=True))
    except (pa.ArrowException, OSError) as exc:
        raise errors.ConfigError(f"{wanted.path!r} is damaged {kind}: {exc}; write the file again") from exc


def _values(name: str, values: Any, path: str) -> list[Any]:
    import pyarrow as pa

    if name.casefold() in MEDIA:
        return [each or None for each in values.is_valid().to_pylist()]
    try:
        return [*map(_without_nulls, values.to_pylist())] if pa.types.is_nested(values.type) else values.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as exc:
        raise errors.ConfigError(
            f"{path!r}: column {name!r} ({values.type}) cannot be read: {exc}; write it as text"
        ) from exc


def _without_nulls(value: Any) -> Any:
    """A value of a table whose parts have the fields of all rows, without those that this one has not."""
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [*map(_without_nulls, value)] if isinstance(value, list) else value


def read_each(records: Iterable[Record], read_one: Callable[[Fields], T]) -> tuple[list[tuple[Record, T]], list[str]]:
    """Every record with what it holds; and in words those that hold nothing, with their numbers."""
    found: list[tuple[Record, T]] = []
    bad: list[str] = []
    for record in records:
        try:
            found.append((record, read_one(record.fields)))
        except BadRecordError as exc:
            bad.append(f"row {record.number}: {exc}")
    return found, bad


def first_of(bad_rows: list[str]) -> list[str]:
    """As many of them as an error spells out, and how many more there are."""
    return [*bad_rows[:_LISTED], *([f"… and {len(bad_rows) - _LISTED} more"] if len(bad_rows) > _LISTED else [])]


def indented(bad_rows: list[str]) -> list[str]:
    """`first_of`, to stand below a sentence."""
    return [f"  {row}" for row in first_of(bad_rows)]
