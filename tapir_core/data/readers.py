"""Instructions in files of a user: the pool, the held-out set and the questions of benchmarks.

A record is Alpaca, messages or ShareGPT (method.md, Identity and Turns): of a conversation all up to the last user turn
is the instruction. Texts are kept in their normal form, so that equal ids are equal instructions. The answer after it,
or what the file calls `output`, is read only where it is to be used: else the student is judged against what the
teacher is asked for. A reference is only what a field of that name gives. What a record gives in two ways, such as an
instruction and a conversation, must agree: nothing tells which is meant.

Words that stand for no input ("<noinput>", "nan", "N/A") are an empty input, and counted. A question about such a word
has to have it in the instruction.

Pool and held-out set are sorted by instruction id, so the order of a file's rows changes nothing. Rows with one id are
merged: answer, reference and source are of one row, of several the first in alphabetical order that has both, and one
row in dev puts all in dev.

Of a benchmark, which may be AlpacaEval's list, MT-Bench's turns or anything the pool may be, every turn is a question
of its own, since an instruction that holds any of them gives it away. Only the texts are read: categories, references
and outputs belong to who scores the benchmark.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby, islice
from typing import Any, Literal, NamedTuple

import polars as pl

from tapir_core import errors, stages, task_types, tools
from tapir_core.config import HELDOUT, BenchmarkConfig
from tapir_core.config.data import FIELDS
from tapir_core.data import dataset, decontamination
from tapir_core.data.records import (
    MARKS,
    MEDIA,
    NO_NAMES,
    BadRecordError,
    Fields,
    Names,
    Record,
    SaidTwiceError,
    UnknownLayout,
    indented,
    read_each,
    read_json,
    read_records,
)
from tapir_core.text import instruction_id, normalise
from tapir_core.turns import (
    CONTROL_BEGINS,
    EARLIER,
    MARKED,
    Turn,
    asks_with_control_token,
    has_tools,
    pack_turns,
    user_texts,
)

OnBadRow = Literal["stop", "skip"]

_NO_REFERENCE = "no `reference`, and a held-out row is scored by it"

_QUESTION_IDS = ("question_id", "instruction_id", "id", "key")
_QUESTION_MARKS = (*MARKS, "turns", "prompt", "question")
"""Fields of a benchmark that may hold its question."""
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation"), "tool"),
}
"""Who speaks, as files call it in small letters → the role."""
_CONVERSATIONS = ("messages", "conversations")
_SPEAKER, _CONTENT = ("role", "from"), ("content", "value")
"""Where a turn says who speaks, and what."""
_NOT_LEARNT = (
    *("weight", "loss", "train", "training", "trainable"),
    *("loss_weight", "loss_scale", "loss_mask", "train_on_turn"),
)
"""Fields of an assistant's turn, or of a row, that is shown and not to be learnt where one of them is 0 or false."""
_MASKED = ("mask", "masked")
"""The same where one of them is true."""
_MARKS_OF_LEARNING = frozenset((*_NOT_LEARNT, *_MASKED))
_NO_INPUT = re.compile(
    r"<na>|[<\[(] ?empty ?[>\])]"
    r"|[<\[(]? ?(?:no[ _-]?input(?: (?:is )?(?:required|needed|necessary|provided|given))?"
    r"|#?n/a|n\.a|nan|none|null|not applicable) ?[>\])]?\.?",
    re.IGNORECASE,
)
"""What stands in an `input` that is empty."""
_LONGEST_STAND_IN = 100
"""Characters of it, blanks included."""
_NO_TEXT = ("nan", "<NA>")
"""A missing cell of any field, as pandas writes it out as text."""
_BLANK = ("", *_NO_TEXT)


TOOL_FIELDS = ("tools", "functions")

_ASIDE = {
    **dict.fromkeys(("input", "context", "passage", "prompt", "question", "query", "choices", "options"), "input"),
    **dict.fromkeys(("system", "system_prompt", "system_message"), "system"),
    "history": "history",
    **dict.fromkeys((*TOOL_FIELDS, *MEDIA), "tools"),
}
"""What files call a column beside the instruction that changes what it asks → the field that it most likely is."""
_OTHERWISE = {
    "input": "write `{}` into the instruction (of a conversation into its last user turn)",
    "system": "write `{}` into `system`",
    "history": "give rows with `{}` as `messages`, the earlier turns first",
    "tools": "leave out the rows that need `{}`, since models are sent text only",
}
"""What to do where the column cannot be taken as that field."""


_NOTED = {
    "bad_rows": "broken rows that are skipped",
    "duplicates": "rows with the instruction of another, merged with it",
    "placeholder_input": 'rows whose input or system text is a word for none ("<noinput>"), taken as empty',
    "answer_not_to_be_learnt": "rows whose answer is not to be learnt (weight 0), so that the teacher is asked",
    MARKED: 'instructions with a control token of a chat format ("<|im_end|>"), left out',
}
"""What reading counts, in words."""


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
    noted: tuple[str, ...] = ()
    """What of the record was left out, as `_NOTED` names it."""


_ROW = dict.fromkeys(Row._fields[:-1], pl.String())


class _Said(NamedTuple):
    """A turn of a conversation as a file has it."""

    where: str
    """In words."""
    speaker: str
    role: str
    content: Any
    calls: Any = None
    """Of tools."""
    call: Any = None
    """Id of the call whose result it is."""

    @property
    def text(self) -> str | None:
        """What is said; of a content of parts, the parts together.

        Raises:
            BadRecordError: it is no text.
        """
        said = self.content
        if isinstance(said, list) and all(
            isinstance(each, dict) and each.get("type") == "text" and isinstance(each.get("text"), str) for each in said
        ):
            said = "".join(each["text"] for each in said)
        try:
            text = _text({"content": said}, "content")
            return normalise(tools.message_text(text or "", self.calls)) if self.calls else text
        except ValueError as exc:
            raise BadRecordError(f"{self.where}: {exc}") from exc


class _Asked(NamedTuple):
    """What one layout of a record asks."""

    instruction: str | None
    system: str | None = None
    earlier: tuple[Turn, ...] = ()
    answer: _Said | None = None
    is_learnt: bool = True
    """Whether the answer may be learnt."""


@dataclass(frozen=True, slots=True)
class Found:
    """Instructions as they come."""

    rows: pl.DataFrame
    """Columns of the stage `pool` or `heldout`, with those more that some row has."""
    counts: dict[str, float] = field(default_factory=dict)
    """What reading left out or merged: `bad_rows`, `duplicates` (rows with the instruction id of another), and what
    else rows had noted."""
    unread: str = ""
    """A warning of columns that are not read and change what rows ask, the remedy after a semicolon; else empty."""

    @property
    def noted(self) -> list[str]:
        """Each count that is not 0, in a sentence."""
        return [
            f"{_NOTED.get(name, name.replace('_', ' '))}: {int(count):,}"
            for name, count in self.counts.items()
            if count
        ]


def instruction_records(path: str, columns: Names = NO_NAMES) -> Iterator[Record]:
    """Records, as they are asked for, of a file of any accepted format, with the fields of a pool or held-out set.

    ``path`` is a file, or a URL that fsspec opens; ``columns`` are what it calls otherwise.

    Raises:
        ConfigError: it cannot be read.
    """
    return read_records(
        path, columns=columns, fields=(*FIELDS, *_NOT_LEARNT, *_MASKED, *_ASIDE, *map(str.capitalize, _ASIDE))
    )


def read_pool(
    records: Iterable[Record],
    name: str,
    *,
    on_bad_row: OnBadRow,
    limit: int | None,
    rng: random.Random,
    answers: bool = False,
) -> Found:
    """The pool in records of any accepted layout.

    Args:
        records: those of a file, or of any other place.
        name: what errors call that.
        on_bad_row: stop with every bad row listed, or skip and count them.
        limit: size of the random sample that is taken; None takes all.
        rng: draws the sample.
        answers: whether its answers are read.

    Raises:
        ConfigError: there are bad rows under `stop`, or there is no instruction that can be asked.
    """
    read = _read(
        records, name, partial(read_row, answers=answers), on_bad_row, plain=partial(_read_plain, answers=answers)
    )
    begun = pl.col("instruction", "system", EARLIER).str.contains_any([*CONTROL_BEGINS])
    asked = read.rows.filter(pl.any_horizontal(begun)).iter_rows(named=True)
    marked = [each["instruction_id"] for each in asked if asks_with_control_token(each)]
    rows = read.rows.filter(~pl.col("instruction_id").is_in(marked))
    counts = {MARKED: len(marked)} if marked else {}
    if not rows.height:
        raise errors.ConfigError(
            f"{name!r}: all {len(marked):,} instructions have a control token of a chat format, such as <|im_end|>; "
            "write conversations as `messages`, and texts without such tokens"
        )
    if limit is not None and limit < rows.height:
        rows = rows[sorted(rng.sample(range(rows.height), limit))]
    rows = dataset.in_columns(rows, stages.POOL.columns, stages.POOL.some_have)
    return replace(read, rows=rows, counts={**read.counts, **counts})


def read_heldout(
    records: Iterable[Record],
    name: str,
    *,
    on_bad_row: OnBadRow,
    types: Collection[str] = task_types.TASK_TYPES,
    bare: bool = False,
    way_out: str = "",
) -> Found:
    """The held-out set in records of any accepted layout.

    Args:
        records: as of `read_pool`.
        name: likewise.
        on_bad_row: likewise.
        types: the run's task types.
        bare: whether a row may do without a reference.
        way_out: what would let it, told beside rows that are broken for want of one.

    Raises:
        ConfigError: as `read_pool`, or no row belongs to the test split.
    """
    read = _read(records, name, partial(read_heldout_row, types=types, bare=bare), on_bad_row, way_out)
    if "test" not in read.rows["split"]:
        raise errors.ConfigError(
            f'{name!r} has no row of the test split, which is the reported one; set `split` = "test"'
        )
    return replace(read, rows=dataset.in_columns(read.rows, stages.HELDOUT.columns, stages.HELDOUT.some_have))


def read_questions(benchmarks: Mapping[str, BenchmarkConfig]) -> pl.DataFrame:
    """The questions of every benchmark, columns of `questions`, sorted by benchmark, in the order of its file.

    A question's id is the field `question_id`, `instruction_id`, `id` or `key` of its record, or its number (the line
    of JSON lines, the place in a list; from 1).

    Raises:
        ConfigError: a file cannot be read, or a record of it holds no question.
    """
    tables = [_read_benchmark(name, benchmarks[name].questions) for name in sorted(benchmarks)]
    return pl.concat([pl.DataFrame(schema=stages.QUESTIONS.columns), *tables])


def heldout_questions(heldout: pl.DataFrame) -> pl.DataFrame:
    """The held-out set (instruction_id, instruction, maybe earlier_turns) with the columns of `questions`."""
    return decontamination.whole_questions(heldout).select(
        benchmark=pl.lit(HELDOUT), question_id="instruction_id", turn=pl.lit(1, pl.Int64), question="instruction"
    )


def read_row(fields: Fields, *, answers: bool = False) -> Row:
    """One instruction of a pool, with its answer where ``answers`` are to be used.

    Raises:
        BadRecordError: the record is no instruction, or says different things in two places.
    """
    if stand_ins := [name for name in ("input", "system") if _stands_for_nothing(fields.get(name))]:
        fields = {**fields, **dict.fromkeys(stand_ins)}
    layouts = _layouts(fields)
    asked, *others = layouts.values()
    if asked.instruction is None:
        raise BadRecordError("the instruction is empty")
    if others:
        _agree(layouts)
    system = _same("system texts", _text(fields, "system"), asked.system, *[each.system for each in others])
    is_used = answers and not is_masked(fields) and all(each.is_learnt for each in layouts.values())
    given = [each.answer.text for each in layouts.values() if each.answer] if is_used else []
    noted = ["placeholder_input"] if stand_ins else []
    noted += ["answer_not_to_be_learnt"] if answers and not is_used else []
    return Row(
        instruction_id=instruction_id(asked.instruction, system, asked.earlier),
        instruction=asked.instruction,
        system=system,
        source=_text(fields, "source") or "file",
        reference=_text(fields, "reference"),
        earlier_turns=pack_turns(asked.earlier),
        answer=_same("answers", _text(fields, "output"), *given) if is_used else None,
        noted=tuple(noted),
    )


def read_heldout_row(fields: Fields, types: Collection[str] = task_types.TASK_TYPES, *, bare: bool = False) -> Row:
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
        raise BadRecordError(task_types.unknown_type(task_type, types))
    if split not in ("dev", "test"):
        raise BadRecordError(f"`split` {split!r} is neither 'dev' nor 'test'")
    return row._replace(task_type=task_type, split=split)


def _read(
    records: Iterable[Record],
    name: str,
    read_one: Callable[[Fields], Row],
    on_bad_row: OnBadRow,
    way_out: str = "",
    plain: Callable[[Sequence[Fields], set[str]], Sequence[Sequence[Any]] | None] = lambda *_: None,
) -> Found:
    """The instructions of records with all columns of ``Row``, one row for each id, whatever order they come in."""
    total, layouts, beside = 0, dict[tuple[str, ...], None](), _Beside()
    tables, bad, noted = list[pl.DataFrame](), list[str](), Counter[str]()
    left = iter(records)
    while some := [*islice(left, _BATCH)]:
        total += len(some)
        given = [record.item for record in some if isinstance(record.item, dict)]
        layouts |= dict.fromkeys(map(tuple, given))
        names = {*chain.from_iterable(given)}
        beside.take(given, names)
        columns = plain(given, names) if len(given) == len(some) else None
        if columns is None:
            found, broken = read_each(some, read_one)
            bad += broken
            beside.look_at(found, {name for each in layouts for name in each})
            columns = [*zip(*(row for _, row in found), strict=True)] or [()] * len(Row._fields)
        noted.update(chain.from_iterable(columns[-1]))
        tables.append(pl.DataFrame(dict(zip(_ROW, columns, strict=False)), schema=_ROW))
    fields = dict.fromkeys(name for each in layouts for name in each)
    if fields and not {*MARKS} & fields.keys():
        raise UnknownLayout(name, fields)
    rows = pl.concat(tables) if tables else pl.DataFrame(schema=_ROW)
    if bad and (on_bad_row == "stop" or not rows.height):
        raise errors.ConfigError(_bad_rows_in_words(name, bad, total, way_out))
    if not rows.height:
        raise errors.ConfigError(f"{name!r} holds no instruction; bring a file with at least one row")
    merged = rows
    if rows["instruction_id"].is_duplicated().any():  # answer and reference of one row, one that has both first
        merged = (
            rows.sort(
                pl.col("answer").is_null() | pl.col("reference").is_null(),
                *("answer", "reference", "source"),
                nulls_last=True,
                maintain_order=True,
            )
            .group_by("instruction_id")
            .agg(
                pl.col("instruction", "system", EARLIER).first(),
                pl.col("task_type", "split").min(),
                pl.col("source", "reference", "answer").drop_nulls().first(),
            )
        )
    return Found(
        merged.sort("instruction_id"),
        {"bad_rows": len(bad), "duplicates": rows.height - merged.height, **noted},
        beside.in_words(name, fields, rows.height),
    )


def _read_plain(given: Sequence[Fields], names: set[str], *, answers: bool) -> Sequence[Sequence[Any]] | None:
    """The columns of ``Row`` for records that give their texts in fields, ``names``: `read_row` in half the time.

    None where one of them is broken or says more than that.
    """
    texts = {"instruction", "input", "system", "source", "reference", *(["output"] if answers else [])}
    more = {name for name in names - texts if _meant(name)} | (names & _MARKS_OF_LEARNING.union(_CONVERSATIONS))
    try:
        read: dict[str, list[Any]] = {name: [_text(each, name) for each in given] for name in texts & names}
    except BadRecordError:
        return None
    if more or None in read.get("instruction", [None]):
        return None
    nothing, noted = [None] * len(given), list[tuple[str, ...]]([()] * len(given))
    for name in {"input", "system"} & names:
        for place in (place for place, each in enumerate(given) if _stands_for_nothing(each.get(name))):
            read[name][place], noted[place] = None, ("placeholder_input",)
    instructions = [
        f"{text}\n\n{context}" if context else text
        for text, context in zip(read["instruction"], read.get("input", nothing), strict=True)
    ]
    systems = read.get("system", nothing)
    return (
        [*map(instruction_id, instructions, systems)],
        *(instructions, systems, [each or "file" for each in read.get("source", nothing)]),
        *(read.get("reference", nothing), nothing, ["test"] * len(given), nothing, read.get("output", nothing), noted),
    )


_BATCH = 500
"""Records that are held at once."""


class _Beside:
    """The columns that are not read and change what rows ask, over all batches of a file."""

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()
        self._no_texts: set[str] = set()
        self._taken: set[str] = set()
        """Of input and system text, what some row has."""

    def take(self, given: Sequence[Fields], names: set[str]) -> None:
        """Find which of input and system text a batch has in its fields, ``names``."""
        free = {"input", "system"} & names - self._taken
        self._taken |= {name for name in free if not all(_is_absent(each.get(name)) for each in given)}

    def look_at(self, found: list[tuple[Record, Row]], names: Collection[str]) -> None:
        """Count what a batch has in columns of the file, which are ``names`` so far."""
        for name in names:
            if _meant(name) and name not in _read_of(names):
                given = [value for each in found if (value := _more_in(name, *each))]
                self._given[name] += len(given)
                if not all(isinstance(value, str) for value in given):
                    self._no_texts.add(name)

    def in_words(self, path: str, names: Collection[str], rows: int) -> str:
        """The warning of them in a file of so many ``rows`` with the columns ``names``; else empty."""
        free, read = {"input", "system"} - self._taken, _read_of(names)
        columns, remedies = list[str](), list[str]()
        for name in (each for each in names if each not in read and self._given[each]):
            columns.append(f"`{name}` (in {self._given[name]:,} of {rows:,} rows)")
            if (meant := _meant(name)) in free & read and name not in self._no_texts:
                free.remove(meant)
                remedies.append(
                    f"add {meant} = {json.dumps(name, ensure_ascii=False)} to data.pool.columns (of a held-out set to "
                    "data.heldout.columns), or rename it"
                )
            else:
                remedies.append(_OTHERWISE[meant].format(name))
        what = f"{path!r}: columns that change what a row asks are not read: {', '.join(columns)}"
        return f"{what}; {'; '.join(dict.fromkeys(remedies))}" if columns else ""


def _meant(name: str) -> str:
    """The field that a column beside the instruction most likely is; else empty."""
    return _ASIDE.get(str(name).strip().casefold().replace(" ", "_"), "")


def _read_of(names: Collection[str]) -> set[str]:
    """Fields that are read of a file with the columns ``names``."""
    return {*FIELDS} if "instruction" in names else {*FIELDS} - {"input"}


def _more_in(name: str, record: Record, row: Row) -> Any:
    """What a field says beyond the row that was read of its record; a prompt may hold the instruction in a template."""
    value = record.fields.get(name)
    if name in TOOL_FIELDS and has_tools(row._asdict()):
        return None
    if not isinstance(value, str):
        return None if _is_absent(value) else value
    text, *said = (
        " ".join(each.split())
        for each in (value, *user_texts(row._asdict()), row.system or "", str(record.fields.get("instruction") or ""))
    )
    is_said = any(text in each or (each and each in text) for each in said)
    return None if is_said or _is_absent(text) or text in ("[]", "{}") or _stands_for_nothing(text) else value


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
    records = read_records(path, fields=(*FIELDS, *_QUESTION_IDS, *_QUESTION_MARKS), marks=_QUESTION_MARKS)
    found, bad = read_each(records, _turns_of)
    if bad or not found:
        lines = [
            f"evaluation.benchmarks.{benchmark}.questions: {path!r}: {len(bad)} rows hold no question:",
            *(indented(bad) or ["  there is no record in it"]),
            "It is `instruction`, `prompt`, `question`, `turns` or `messages` (docs/decontamination.md).",
        ]
        raise errors.ConfigError("\n".join(lines))
    rows = []
    for record, texts in found:
        ids = (record.fields[name] for name in _QUESTION_IDS if record.fields.get(name) is not None)
        question_id = str(next(ids, record.number))
        rows += [(benchmark, question_id, turn, text) for turn, text in enumerate(texts, start=1)]
    return pl.DataFrame(rows, schema=stages.QUESTIONS.columns, orient="row")


def _turns_of(fields: Fields) -> list[str]:
    """The turns of one record of a benchmark."""
    own = [name for name in _QUESTION_MARKS if name not in MARKS and not _is_absent(fields.get(name))]
    is_record = not all(_is_absent(fields.get(name)) for name in MARKS)
    if "question" in own and (is_record or len(own) > 1):
        own.remove("question")
    asked = {name: _texts_of(name, fields[name]) for name in own}
    if is_record or not asked:
        asked["instruction"] = user_texts(read_row(fields)._asdict())
    longest = max(asked.values(), key=len)
    if not all({*texts} <= {*longest} for texts in asked.values()):
        raise SaidTwiceError(f"{_in_words(asked)} disagree; keep the one that is the question")
    return longest


def _texts_of(name: str, value: Any) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(turn, str) and turn.strip() for turn in found):
        raise BadRecordError(f"`{name}` is neither a text nor a list of texts")
    return [normalise(turn) for turn in found]


def _layouts(fields: Fields) -> dict[str, _Asked]:
    """Each layout in which the record has something, the conversations first."""
    found: dict[str, _Asked] = {}
    if talks := {name: turns for name in _CONVERSATIONS if name in fields and (turns := _turns_in(fields, name))}:
        try:
            given = next((fields[each] for each in TOOL_FIELDS if not _is_absent(fields.get(each))), None)
            defined = tools.definitions(given)
        except ValueError as exc:
            raise BadRecordError(f"`tools`: {exc}") from exc
        found = {name: _read_turns(name, turns, defined) for name, turns in talks.items()}
    instruction, context = _text(fields, "instruction"), _text(fields, "input")
    if instruction is not None or not found:
        if fields.keys().isdisjoint(MARKS):
            known = ", ".join(sorted(map(str, fields))[:10]) or "no field"
            raise BadRecordError(f"none of `instruction`, `messages` and `conversations` (it has {known})")
        found["instruction"] = _Asked(f"{instruction}\n\n{context}" if instruction and context else instruction)
    return found


def _turns_in(fields: Fields, name: str) -> list[Any]:
    """The turns of a conversation, none where it is absent; a CSV cell or Parquet text holds them as JSON.

    An object of lists holds the speakers in one list and the texts in another.
    """
    value = fields.get(name)
    if isinstance(value, str) and not _is_absent(value):
        try:
            value = read_json(value)
        except (ValueError, RecursionError) as exc:
            raise BadRecordError(f"`{name}` is text but no JSON list: {exc}") from exc
    if _is_absent(value):
        return []
    if isinstance(value, SaidTwiceError):
        raise value
    lists = {key: each for key, each in value.items() if isinstance(each, list)} if isinstance(value, dict) else {}
    if len({*map(len, lists.values())}) == 1:
        value = [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
    if not isinstance(value, list):
        raise BadRecordError(f"`{name}` is no list of turns, and no object of lists of one length")
    return value


def _read_turns(name: str, given: list[Any], defined: str) -> _Asked:
    """An optional system turn, and user and assistant in turn; what an assistant says last is the answer."""
    said = _as_user([_said(f"`{name}`: turn {place}", each) for place, each in enumerate(given, start=1)])
    has_tools = defined != "[]" or any(turn.calls for turn in said)
    first = 1 if said[0].role == "system" else 0
    for place, turn in enumerate(said[first:]):
        if turn.role != ("user", "assistant")[place % 2]:
            raise BadRecordError(
                f"{turn.where} is of {turn.speaker!r}; user and assistant take turns and a user begins, after at most "
                "one system turn"
            )
    if len(said) == first:
        raise BadRecordError(f"`{name}` has no user turn")
    *before, asked = said[: len(said) - (said[-1].role == "assistant")]
    earlier = [(turn, turn.text) for turn in before[first:]]
    if empty := [turn for turn, text in earlier if text is None]:
        raise BadRecordError(f"{empty[0].where} is empty")
    answer = said[-1] if said[-1].role == "assistant" else None
    return _Asked(
        instruction=asked.text,
        system=said[0].text if first else None,
        earlier=(
            *([Turn(tools.TOOLS, defined)] if has_tools else []),
            *(Turn("user" if turn.role == "user" else "assistant", text or "") for turn, text in earlier),
        ),
        answer=answer,
        is_learnt=not (answer and is_masked(given[-1])),
    )


def _said(where: str, turn: Any) -> _Said:
    if isinstance(turn, SaidTwiceError):
        raise turn
    if not isinstance(turn, dict):
        raise BadRecordError(f"{where} is {type(turn).__name__}, and no object with a role and a text")
    speaker, content = (_one_of(where, turn, names) for names in (_SPEAKER, _CONTENT))
    if speaker is None:
        raise BadRecordError(f"{where} has neither `role` nor `from` (it has {', '.join(map(str, turn))})")
    if (role := _ROLES.get(str(speaker).strip().casefold())) is None:
        raise BadRecordError(f"{where} is of {speaker!r}, which is none of {', '.join(_ROLES)}")
    return _Said(
        where, speaker, role, content, turn.get("tool_calls") or turn.get("function_call"), turn.get("tool_call_id")
    )


def _as_user(said: list[_Said]) -> list[_Said]:
    """The turns, results of tools in turns of the user; those that follow each other are one turn."""
    found = list[_Said]()
    for is_result, turns in groupby(said, key=lambda turn: turn.role == "tool"):
        if not is_result:
            found += turns
            continue
        calls = found[-1].calls if found and isinstance(found[-1].calls, list) else []
        ids = [each.get("id") for each in calls if isinstance(each, dict)]
        results = [*turns]
        if {each.call for each in results} <= {*ids}:
            results.sort(key=lambda turn: ids.index(turn.call))
        texts = [tools.result_text(turn.text or "") for turn in results]
        found.append(results[0]._replace(role="user", content="\n".join(texts)))
    return found


def role_of(turn: Fields) -> str:
    """system, user or assistant; empty for another speaker."""
    return _ROLES.get(str(turn.get("role", turn.get("from"))).strip().casefold(), "")


def _one_of(where: str, fields: Fields, names: tuple[str, ...]) -> Any:
    """What the only one of ``names`` that has something holds, or all that do."""
    given = {name: fields[name] for name in names if not _is_absent(fields.get(name))}
    if len({str(value) for value in given.values()}) > 1:
        raise SaidTwiceError(f"{where}: {_in_words(given)} disagree; keep one of them")
    return next(iter(given.values()), None)


def _agree(layouts: Mapping[str, _Asked]) -> None:
    """Refuse a record whose layouts ask different things; an instruction may be the last turn of a conversation."""
    asked = {" ".join((each.instruction or "").split()) for each in layouts.values()}
    before = {each.earlier for name, each in layouts.items() if name in _CONVERSATIONS}
    if len(asked) > 1 or len(before) > 1:
        name = next(iter(layouts))
        raise SaidTwiceError(
            f'{_in_words(layouts)} disagree; leave one out, or say which is meant: columns = {{ {name} = "{name}" }}'
        )


def _same(what: str, *texts: str | None) -> str | None:
    """The one text among ``texts``."""
    given = {*filter(None, texts)}
    if len(given) > 1:
        raise SaidTwiceError(f"it has {len(given)} different {what}; keep one")
    return given.pop() if given else None


def _in_words(names: Iterable[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)


def _is_absent(value: Any) -> bool:
    """Whether a field has nothing in it: null, blank, an empty list or object, not a number."""
    if isinstance(value, str):
        return not value.strip() or value.strip() in _NO_TEXT
    return value is None or value in ([], {}) or value != value


def _stands_for_nothing(value: Any) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_STAND_IN:
        return False
    return _NO_INPUT.fullmatch(" ".join(value.split())) is not None


def is_masked(turn: Fields) -> bool:
    """Whether a turn, or a row, is shown and not to be learnt."""
    return not _MARKS_OF_LEARNING.isdisjoint(turn) and any(
        str(turn[name]).strip().casefold() in (("1", "1.0", "true") if name in _MASKED else ("0", "0.0", "false"))
        for name in _MARKS_OF_LEARNING & turn.keys()
    )


def _text(fields: Fields, name: str) -> str | None:
    """A field's text in its normal form; nothing where it is absent or blank."""
    value = fields.get(name)
    if isinstance(value, str):
        text = normalise(value)
        return None if text in _BLANK else text
    if value is not None and not _is_absent(value):
        raise BadRecordError(f"`{name}` is {type(value).__name__}, not text")
    return None
