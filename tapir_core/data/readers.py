"""Instructions in files of a user: the pool, the held-out set and the questions of benchmarks.

A file is JSON, JSON lines, CSV or Parquet, told apart by its content, and read whole into memory. A damaged line of
JSON lines or CSV is one broken record; a damaged JSON or Parquet file is an error, since nothing after the damage can
be trusted.

A record is Alpaca, messages or ShareGPT (method.md, Identity and Turns): of a conversation all up to the last user turn
is the instruction. Texts are kept in their normal form, so that equal ids are equal instructions. The answer after it,
or what the file calls `output`, is read only where it is to be used: else the student is judged against what the
teacher is asked for. A reference is only what a field of that name gives.

Pool and held-out set are sorted by instruction id, so the order of a file's rows changes nothing. Rows with one id are
merged: of several references, answers or sources the first in alphabetical order stays, and one row in dev puts all in
dev.

Of a benchmark, which may be AlpacaEval's list, MT-Bench's turns or anything the pool may be, every turn is a question
of its own, since an instruction that holds any of them gives it away. Only the texts are read: categories, references
and outputs belong to who scores the benchmark.
"""

import csv
import io
import json
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar

import polars as pl

from tapir_core.config import HELDOUT, BenchmarkConfig
from tapir_core.data.dataset import in_columns
from tapir_core.data.decontamination import whole_questions
from tapir_core.errors import ConfigError
from tapir_core.task_types import TASK_TYPES, unknown_type
from tapir_core.text import first_few, instruction_id, normalise
from tapir_core.turns import EARLIER, Turn, pack_turns, user_texts

_ACCEPTED = "Alpaca JSON, JSON lines (messages or ShareGPT), CSV with a header, or Parquet"
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
"""Longest wait for a web server to take a connection, and for its next bytes."""

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
_NO_NAMES: Names = MappingProxyType({})


def read_records(path: str, *, tables: bool = True, columns: Names = _NO_NAMES) -> list[Record]:
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


Fields = Mapping[str, Any]
OnBadRow = Literal["stop", "skip"]
T = TypeVar("T")

POOL_SCHEMA = dict.fromkeys(("instruction_id", "instruction", "system", "source", "reference"), pl.String)
"""One row per instruction; `system` and `reference` may be null."""

SOME_HAVE = (EARLIER, "answer")
"""More columns, of text, that are there where a row has something in them. An answer is one that is to be used."""

HELDOUT_SCHEMA = dict.fromkeys(
    ("instruction_id", "instruction", "system", "task_type", "reference", "split"), pl.String
)
"""One row per instruction; `system`, `task_type` and `reference` may be null."""

QUESTIONS = pl.Schema(
    {"benchmark": pl.String(), "question_id": pl.String(), "turn": pl.Int64(), "question": pl.String()}
)
"""One row per question and turn, from 1."""

_NO_REFERENCE = "no `reference`, and a held-out row is scored by it"

_LISTED = 20
"""Bad rows that an error spells out."""

_QUESTION_IDS = ("question_id", "instruction_id", "id", "key")
_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model"), "assistant"),
}
"""Who speaks, as files call it → the role."""
_CONVERSATIONS = {"messages": ("role", "content"), "conversations": ("from", "value")}
"""Field of a conversation → where its turns say who speaks, and what."""


class Row(NamedTuple):
    """One instruction."""

    instruction_id: str
    instruction: str
    system: str | None
    source: str
    """The record's own `source`, or `file`; never the file's name, so that a renamed file is the same pool."""
    reference: str | None
    task_type: str | None = None
    split: str = "test"
    earlier_turns: str | None = None
    """The turns before the instruction, as `tapir_core.turns` packs them."""
    answer: str | None = None
    """To the instruction, where it is to be used."""


_ROW = dict.fromkeys(Row._fields, pl.String())


@dataclass(frozen=True, slots=True)
class Found:
    """Instructions as they come."""

    rows: pl.DataFrame
    """`POOL_SCHEMA` or `HELDOUT_SCHEMA`, and of `SOME_HAVE` what some row has."""
    counts: dict[str, float] = field(default_factory=dict)
    """What reading left out or merged: `bad_rows`, and `duplicates` (rows with the instruction id of another)."""


def read_pool(
    path: str,
    *,
    on_bad_row: OnBadRow,
    limit: int | None,
    rng: random.Random,
    columns: Names = _NO_NAMES,
    answers: bool = False,
) -> Found:
    """The pool in a file of any accepted format.

    Args:
        path: a file, or a URL that fsspec opens.
        on_bad_row: stop with every bad row listed, or skip and count them.
        limit: size of the random sample that is taken; nothing takes all.
        rng: draws the sample.
        columns: what the file calls otherwise.
        answers: whether its answers are read.

    Raises:
        ConfigError: the file cannot be read, has bad rows under `stop`, or holds no instruction.
    """
    read = _read(path, partial(read_row, answers=answers), on_bad_row, columns)
    rows = read.rows
    if limit is not None and limit < rows.height:
        rows = rows[sorted(rng.sample(range(rows.height), limit))]
    return Found(in_columns(rows, POOL_SCHEMA, SOME_HAVE), read.counts)


def read_heldout(
    path: str,
    *,
    on_bad_row: OnBadRow,
    columns: Names = _NO_NAMES,
    types: Collection[str] = TASK_TYPES,
    bare: bool = False,
    way_out: str = "",
) -> Found:
    """The held-out set in a file of any accepted format.

    Args:
        path: as of `read_pool`.
        on_bad_row: likewise.
        columns: likewise.
        types: the run's task types.
        bare: whether a row may do without a reference.
        way_out: what would let it, told beside rows that are broken for want of one.

    Raises:
        ConfigError: as `read_pool`, or no row belongs to the test split.
    """
    read = _read(path, partial(read_heldout_row, types=types, bare=bare), on_bad_row, columns, way_out)
    if "test" not in read.rows["split"]:
        raise ConfigError(f'{path!r} has no row of the test split, which is the reported one; set `split` = "test"')
    return Found(in_columns(read.rows, HELDOUT_SCHEMA, SOME_HAVE), read.counts)


def read_questions(benchmarks: Mapping[str, BenchmarkConfig]) -> pl.DataFrame:
    """The questions of every benchmark, ``QUESTIONS``, sorted by benchmark, in the order of its file.

    A question's id is the field `question_id`, `instruction_id`, `id` or `key` of its record, or its number (the line
    of JSON lines, the place in a list; from 1).

    Raises:
        ConfigError: a file cannot be read, or a record of it holds no question.
    """
    tables = [_read_benchmark(name, benchmarks[name].questions) for name in sorted(benchmarks)]
    return pl.concat([pl.DataFrame(schema=QUESTIONS), *tables])


def heldout_questions(heldout: pl.DataFrame) -> pl.DataFrame:
    """The held-out set (instruction_id, instruction, maybe earlier_turns) as ``QUESTIONS``."""
    return whole_questions(heldout).select(
        benchmark=pl.lit(HELDOUT), question_id="instruction_id", turn=pl.lit(1, pl.Int64), question="instruction"
    )


def read_row(fields: Fields, *, answers: bool = False) -> Row:
    """One instruction of a pool, with its answer where ``answers`` are to be used.

    Raises:
        BadRecordError: the record is no instruction.
    """
    fields, earlier = _as_alpaca(fields)
    system, instruction, given = (_text(fields, name) for name in ("system", "instruction", "input"))
    if instruction is None:
        raise BadRecordError("the instruction is empty")
    if given is not None:
        instruction = f"{instruction}\n\n{given}"
    return Row(
        instruction_id=instruction_id(instruction, system, earlier),
        instruction=instruction,
        system=system,
        source=_text(fields, "source") or "file",
        reference=_text(fields, "reference"),
        earlier_turns=pack_turns(earlier),
        answer=_text(fields, "output") if answers else None,
    )


def read_heldout_row(fields: Fields, types: Collection[str] = TASK_TYPES, *, bare: bool = False) -> Row:
    """One instruction of a held-out set of a run with the task types ``types``; without any all names will do.

    Raises:
        BadRecordError: the record is no instruction, has no reference and is not to be ``bare``, or names an unknown
            task type or split.
    """
    row = read_row(fields)
    if row.reference is None and not bare:
        raise BadRecordError(_NO_REFERENCE)
    task_type, split = _text(fields, "task_type"), _text(fields, "split") or "test"
    if task_type is not None and types and task_type not in types:
        raise BadRecordError(unknown_type(task_type, types))
    if split not in ("dev", "test"):
        raise BadRecordError(f"`split` {split!r} is neither 'dev' nor 'test'")
    return row._replace(task_type=task_type, split=split)


def _read(
    path: str, read_one: Callable[[Fields], Row], on_bad_row: OnBadRow, columns: Names, way_out: str = ""
) -> Found:
    """The instructions of a file with all columns of ``Row``, one row for each id, whatever order they come in."""
    found, bad = read_each(path, read_one, columns=columns)
    if bad and (on_bad_row == "stop" or not found):
        raise ConfigError(_bad_rows_in_words(path, bad, len(found) + len(bad), way_out))
    if not found:
        raise ConfigError(f"{path!r} holds no instruction; bring a file with at least one row")
    rows = pl.DataFrame([row for _, row in found], schema=_ROW, orient="row")
    merged = rows.group_by("instruction_id").agg(
        pl.col("instruction", "system", EARLIER).first(),
        pl.col("source", "reference", "task_type", "split", "answer").min(),
    )
    return Found(merged.sort("instruction_id"), {"bad_rows": len(bad), "duplicates": rows.height - merged.height})


def read_each(
    path: str, read_one: Callable[[Fields], T], *, tables: bool = True, columns: Names = _NO_NAMES
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


def _bad_rows_in_words(path: str, bad_rows: list[str], total: int, way_out: str) -> str:
    remedy = 'Repair them, or set data.on_bad_row = "skip" to go on without them; they are counted.'
    lacks_reference = any(row.endswith(_NO_REFERENCE) for row in bad_rows)
    if len(bad_rows) == total:
        remedy = (
            "Repair them."
            if lacks_reference
            else "No row is an instruction: docs/own-data.md shows the accepted formats."
        )
    if lacks_reference and way_out:
        remedy = f"{remedy} {way_out}"
    return "\n".join([f"{path!r}: {len(bad_rows)} of {total} rows are broken:", *_listed(bad_rows), remedy])


def first_of(bad_rows: list[str]) -> list[str]:
    """As many of them as an error spells out, and how many more there are."""
    more = [f"… and {len(bad_rows) - _LISTED} more"] if len(bad_rows) > _LISTED else []
    return [*bad_rows[:_LISTED], *more]


def _listed(bad_rows: list[str]) -> list[str]:
    return [f"  {row}" for row in first_of(bad_rows)]


def _read_benchmark(benchmark: str, path: str) -> pl.DataFrame:
    found, bad = read_each(path, _turns_of)
    if bad or not found:
        shown = _listed(bad) or ["  there is no record in it"]
        said = f"evaluation.benchmarks.{benchmark}.questions: {path!r}: {len(bad)} rows hold no question:"
        remedy = "It is `instruction`, `prompt`, `question`, `turns` or `messages` (docs/decontamination.md)."
        raise ConfigError("\n".join([said, *shown, remedy]))
    rows = []
    for record, texts in found:
        ids = (record.fields[name] for name in _QUESTION_IDS if record.fields.get(name) is not None)
        named = str(next(ids, record.number))
        rows += [(benchmark, named, turn, text) for turn, text in enumerate(texts, start=1)]
    return pl.DataFrame(rows, schema=QUESTIONS, orient="row")


def _turns_of(fields: Fields) -> list[str]:
    """The turns of one record of a benchmark."""
    turns = fields.get("turns", fields.get("prompt"))
    if turns is None and not fields.keys() & set(MARKS):
        turns = fields.get("question")
    if turns is None:
        return user_texts(read_row(fields)._asdict())
    found = [turns] if isinstance(turns, str) else turns
    if not isinstance(found, list) or not found or not all(isinstance(turn, str) and turn.strip() for turn in found):
        raise BadRecordError("`turns`, `prompt` or `question` is neither a text nor a list of texts")
    return [normalise(turn) for turn in found]


def _as_alpaca(fields: Fields) -> tuple[Fields, list[Turn]]:
    """A record of any shape with its last user turn as `system`, `instruction`, `input` and `output`; earlier turns."""
    for name, (speaker, content) in _CONVERSATIONS.items():
        if fields.get(name) not in (None, ""):
            return _read_turns(fields, _conversation(name, fields[name]), name, speaker, content)
    if "instruction" not in fields:
        known = ", ".join(sorted(map(str, fields))[:10]) or "no field"
        raise BadRecordError(f"none of `instruction`, `messages` and `conversations` (it has {known})")
    return fields, []


def _conversation(name: str, value: Any) -> list[Any]:
    """The turns of a conversation; a CSV cell or Parquet text holds them as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as exc:
            raise BadRecordError(f"`{name}` is text but no JSON list: {exc}") from exc
    if not isinstance(value, list):
        raise BadRecordError(f"`{name}` is no list of turns")
    return value


def _read_turns(fields: Fields, turns: list[Any], name: str, speaker: str, content: str) -> tuple[Fields, list[Turn]]:
    """An optional system turn, and user and assistant in turn; what an assistant says last is the answer."""
    said = [str(turn.get(speaker)) if isinstance(turn, dict) else "" for turn in turns]
    first = 1 if said[:1] == ["system"] else 0
    roles = [_ROLES.get(each) for each in said]
    if roles[first : first + 1] != ["user"]:
        raise BadRecordError(f"`{name}` does not start with a user turn (after at most one system turn)")
    for place in range(first, len(turns)):
        if roles[place] != ("user", "assistant")[(place - first) % 2]:
            raise BadRecordError(f"`{name}`: turn {place + 1} is of {said[place]!r}; user and assistant take turns")
    last = len(turns) - 1 - (roles[-1] == "assistant")
    earlier = []
    for place in range(first, last):
        if (text := _text(turns[place], content)) is None:
            raise BadRecordError(f"`{name}`: turn {place + 1} is empty")
        earlier.append(Turn("user" if roles[place] == "user" else "assistant", text))
    alone = {
        "system": (_text(turns[0], content) if first else None) or fields.get("system"),
        "instruction": _text(turns[last], content),
        "input": None,
        "output": (turns[-1].get(content) if last < len(turns) - 1 else None) or fields.get("output"),
    }
    return {**fields, **alone}, earlier


def _text(fields: Fields, name: str) -> str | None:
    """A field's text in its normal form; nothing where it is absent or blank."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRecordError(f"`{name}` is {type(value).__name__}, not text")
    return normalise(value) or None
