"""Evaluation questions of a benchmark's file: AlpacaEval's list, MT-Bench's turns, or anything the pool may be.

Every turn is a question of its own, since an instruction that holds any of them gives it away. Only the texts are
read: categories, references and outputs belong to who scores the benchmark.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from tapir_core.config import HELDOUT, BenchmarkConfig
from tapir_core.data.formats import MARKS, BrokenRecord, read_records
from tapir_core.data.rows import BadRecordError, read_row
from tapir_core.errors import ConfigError
from tapir_core.text import normalise

__all__ = ["QUESTIONS", "heldout_questions", "read_questions"]

QUESTIONS = pl.Schema(
    {"benchmark": pl.String(), "question_id": pl.String(), "turn": pl.Int64(), "question": pl.String()}
)
"""One row per question and turn, from 1."""

_IDS = ("question_id", "instruction_id", "id", "key")
_LISTED_BROKEN = 20


def read_questions(benchmarks: Mapping[str, BenchmarkConfig]) -> pl.DataFrame:
    """The questions of every benchmark, ``QUESTIONS``, sorted by benchmark, in the order of its file.

    A question's id is the field `question_id`, `instruction_id`, `id` or `key` of its record, or its number (the line
    of JSON lines, the place in a list; from 1).

    Raises:
        ConfigError: a file cannot be read, or a record of it holds no question.
    """
    tables = [_read_file(name, benchmarks[name].questions) for name in sorted(benchmarks)]
    return pl.concat([pl.DataFrame(schema=QUESTIONS), *tables])


def heldout_questions(heldout: pl.DataFrame) -> pl.DataFrame:
    """The held-out set (instruction_id, instruction) as ``QUESTIONS``."""
    return heldout.select(
        benchmark=pl.lit(HELDOUT), question_id="instruction_id", turn=pl.lit(1, pl.Int64), question="instruction"
    )


def _read_file(benchmark: str, path: str) -> pl.DataFrame:
    rows, broken = [], []
    for record in read_records(path):
        if isinstance(record, BrokenRecord):
            broken.append(f"  row {record.number}: {record.reason}")
            continue
        try:
            texts = list(_texts(record.fields))
        except BadRecordError as exc:
            broken.append(f"  row {record.number}: {exc}")
            continue
        named = next((record.fields[name] for name in _IDS if record.fields.get(name) is not None), record.number)
        rows += [(benchmark, str(named), turn, text) for turn, text in enumerate(texts, start=1)]
    if broken or not rows:
        shown = broken[:_LISTED_BROKEN] or ["  there is no record in it"]
        raise ConfigError(
            "\n".join(
                [
                    f"evaluation.benchmarks.{benchmark}.questions: {path!r}: {len(broken)} rows hold no question:",
                    *shown,
                    "It is `instruction`, `prompt`, `question`, `turns` or `messages` (docs/decontamination.md).",
                ]
            )
        )
    return pl.DataFrame(rows, schema=QUESTIONS, orient="row")


def _texts(fields: Mapping[str, Any]) -> Iterable[str]:
    """The turns of one record."""
    turns = fields.get("turns", fields.get("prompt"))
    if turns is None and not fields.keys() & set(MARKS):
        turns = fields.get("question")
    if turns is None:
        return [read_row(fields).instruction]
    found = [turns] if isinstance(turns, str) else turns
    if not isinstance(found, list) or not found or not all(isinstance(turn, str) and turn.strip() for turn in found):
        raise BadRecordError("`turns`, `prompt` or `question` is neither a text nor a list of texts")
    return [normalise(turn) for turn in found]
