"""Instructions in files of a user: the pool, the held-out set and the questions of benchmarks.

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

import json
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import polars as pl

from tapir_core.config import HELDOUT, BenchmarkConfig
from tapir_core.data.dataset import in_columns
from tapir_core.data.decontamination import whole_questions
from tapir_core.data.records import MARKS, NO_NAMES, BadRecordError, Fields, Names, indented, read_each
from tapir_core.errors import ConfigError
from tapir_core.task_types import TASK_TYPES, unknown_type
from tapir_core.text import instruction_id, normalise
from tapir_core.turns import EARLIER, Turn, pack_turns, user_texts

OnBadRow = Literal["stop", "skip"]

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
    columns: Names = NO_NAMES,
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
    columns: Names = NO_NAMES,
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
    return "\n".join([f"{path!r}: {len(bad_rows)} of {total} rows are broken:", *indented(bad_rows), remedy])


def _read_benchmark(benchmark: str, path: str) -> pl.DataFrame:
    found, bad = read_each(path, _turns_of)
    if bad or not found:
        shown = indented(bad) or ["  there is no record in it"]
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
