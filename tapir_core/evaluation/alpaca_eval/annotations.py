"""Files of AlpacaEval: outputs, annotations, the difficulty table and the anchors, in the original's forms or ours.

Annotations are a JSON list or JSON lines, one object a judgment: ``preference`` with ``output_1`` (the baseline's) and
``output_2`` (the model's), as in the original's ``annotations.json``; or with ``len_baseline`` and ``len_model`` in
their place. ``switched`` (whether the model's output was shown first) may be there, and who they are of: ``annotator``,
``generator_1`` (the baseline), ``model`` or ``generator_2``; other fields are passed over.
Difficulty and anchors are CSV files of the original's data set (``instruction_difficulty.csv``, ``df_gamed.csv``);
anchors may be annotations too, of one or several models.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapir_core.errors import ConfigError
from tapir_core.evaluation.alpaca_eval.length_control import Anchors, LengthTables, join_anchors, make_anchors
from tapir_core.evaluation.alpaca_eval.preference import Annotation, kept_preference
from tapir_core.evaluation.rows import BadRowError, answer_of, parse_rows, read_rows, read_text, text_of

__all__ = [
    "AnnotationFile",
    "read_anchors",
    "read_annotations",
    "read_difficulty",
    "read_length_tables",
    "read_outputs",
]

_LENGTHS = {"baseline_chars": ("len_baseline", "output_1"), "model_chars": ("len_model", "output_2")}
_DIFFICULTY = ("difficulty", "instruction_difficulty")
_LISTED = 5
_NAMES = {"model": ("model", "generator_2"), "annotator": ("annotator",), "baseline": ("generator_1",)}
"""Who judgments are of, and the fields that name them, the first one that is there."""
_ANCHOR_COLUMNS = ("std_delta_len", "instruction_difficulty", "preference")


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """The judgments of one model, by one annotator, against one baseline."""

    judged: list[Annotation]
    """In the order of the file."""
    names: dict[str, str]
    """``model``, ``annotator`` and ``baseline``, those that rows name."""

    @property
    def in_words(self) -> str:
        """Whose judgments they are; empty where no row says so."""
        return "; ".join(f"{who}: {name}" for who, name in self.names.items())


def read_annotations(path: str) -> AnnotationFile:
    """Judgments, and whose they are.

    Raises:
        ConfigError: the file cannot be read, holds no judgment or those of several models, annotators or baselines, or
            has a row that is none.
    """
    rows = read_rows(path, lambda row: (_annotation(row), {who: _name(row, who) for who in _NAMES}), "annotation")
    found = {who: list(dict.fromkeys(name for _, names in rows if (name := names[who]) is not None)) for who in _NAMES}
    if several := [f"{len(names)} {who}s ({_some(names)})" for who, names in found.items() if len(names) > 1]:
        raise ConfigError(
            f"{path!r} holds judgments of {' and '.join(several)}; give those of one, since figures are of one model, "
            "by one annotator, against one baseline"
        )
    return AnnotationFile([each for each, _ in rows], {who: name for who, names in found.items() for name in names})


def read_outputs(path: str) -> dict[str, str | None]:
    """Instruction → output of one model: a JSON list or JSON lines with ``instruction`` and ``output``.

    An output that failed (`null` or ``$ERROR$``) is nothing.

    Raises:
        ConfigError: the file cannot be read, has a row that is no output, or different outputs to one instruction.
    """
    found: dict[str, str | None] = {}
    twice = {}
    for instruction, output in read_rows(path, _output, "output"):
        if found.setdefault(instruction, output) != output:
            twice[instruction] = (found[instruction], output)
    if twice:
        shown = [
            f"{_begin(instruction)}: {_begin(first)} and {_begin(second)}"
            for instruction, (first, second) in list(twice.items())[:_LISTED]
        ]
        raise ConfigError(
            f"{path!r} has different outputs to {len(twice)} of its instructions ({'; '.join(shown)}); keep one of each"
        )
    return found


def read_difficulty(path: str) -> list[float]:
    """How beatable the baseline is on each instruction, larger is easier, in the order of the instructions.

    A CSV file with a column ``difficulty`` or ``instruction_difficulty``, or with an index and one column of numbers.
    Where a column ``index`` names an instruction twice, its first row counts.

    Raises:
        ConfigError: the file cannot be read, or has no such column.
    """
    columns, rows = _read_csv(read_text(path), path)
    named = [name for name in _DIFFICULTY if name in columns] or columns[1:] * (len(columns) == 2)
    if not named:
        raise ConfigError(f"{path!r} has no column {' or '.join(_DIFFICULTY)} (found {', '.join(columns)})")
    first: dict[str, float] = {}
    for number, row in rows:
        first.setdefault(row.get("index", str(number)), _number(row[named[0]], named[0], number, path))
    return list(first.values())


def read_anchors(path: str, difficulty: list[float]) -> Anchors:
    """Judgments of the anchor models: annotations, or the original's CSV with lengths already standardised.

    ``difficulty`` is that of annotations; the CSV brings its own.

    Raises:
        ConfigError: the file cannot be read, has a row that is none, or more rows of a model than the table.
    """
    text = read_text(path)
    if text.lstrip()[:1] not in ("[", "{"):
        return _read_standardised(text, path)
    models: dict[str | None, list[Annotation]] = {}
    for model, annotation in parse_rows(text, path, lambda row: (_name(row, "model"), _annotation(row)), "annotation"):
        models.setdefault(model, []).append(annotation)
    longest = max(map(len, models.values()))
    if longest > len(difficulty):
        raise ConfigError(f"{path!r} has {longest} rows of one model, the difficulty table only {len(difficulty)}")
    return join_anchors([make_anchors(judged, difficulty) for judged in models.values()])


def read_length_tables(difficulty: str, anchors: str) -> LengthTables:
    """What length control needs, from the files of `read_difficulty` and `read_anchors`.

    Raises:
        ConfigError: as these do.
    """
    table = read_difficulty(difficulty)
    return LengthTables(table, read_anchors(anchors, table))


def _output(fields: Mapping[str, Any]) -> tuple[str, str | None]:
    if "output" not in fields:
        raise BadRowError(f"no output (found {', '.join(map(str, fields)) or 'nothing'})")
    return text_of(fields, "instruction"), answer_of(fields["output"], "output")


def _begin(text: str | None) -> str:
    return "none" if text is None else repr(text[:60])


def _read_standardised(text: str, path: str) -> Anchors:
    columns, rows = _read_csv(text, path)
    if lacking := [name for name in _ANCHOR_COLUMNS if name not in columns]:
        raise ConfigError(
            f"{path!r} has no column {', '.join(lacking)} (found {', '.join(columns)}); "
            f"anchors are annotations of the anchor models, or a CSV file with {', '.join(_ANCHOR_COLUMNS)}"
        )
    cells = [
        [_number(row[name], name, number, path) for name in _ANCHOR_COLUMNS]
        for number, row in rows
        if row["preference"]
    ]
    lengths, difficulty, wins = np.array(cells).reshape(-1, len(_ANCHOR_COLUMNS)).T
    if not ((wins >= 0) & (wins <= 1)).all():
        raise ConfigError(f"{path!r}: preference of standardised anchors is a share, 0-1; got {wins.max():g}")
    return Anchors(np.tanh(lengths), difficulty, wins)


def _name(fields: Mapping[str, Any], who: str) -> str | None:
    found = next((fields[field] for field in _NAMES[who] if field in fields), None)
    return None if found is None else str(found)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")


def _annotation(fields: Mapping[str, Any]) -> Annotation:
    if "preference" not in fields:
        raise BadRowError(f"no preference (found {', '.join(map(str, fields)) or 'nothing'})")
    stored, switched = fields["preference"], fields.get("switched")
    if stored is not None and (isinstance(stored, bool) or not isinstance(stored, int | float)):
        raise BadRowError(f"preference must be a number or null, got {stored!r}")
    if not isinstance(switched, bool | None):
        raise BadRowError(f"switched must be true, false or null, got {switched!r}")
    lengths = {name: _length(fields, *sources) for name, sources in _LENGTHS.items()}
    return Annotation(kept_preference(stored), switched=switched, **lengths)


def _length(fields: Mapping[str, Any], length: str, output: str) -> int:
    if isinstance(found := fields.get(length), int):
        return found
    if isinstance(text := fields.get(output), str):
        return len(text)
    raise BadRowError(f"neither {length} (a whole number) nor {output} (a text)")


def _read_csv(text: str, path: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Columns, and rows with their lines."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, {name: cell or "" for name, cell in row.items()}) for row in reader]
    except csv.Error as exc:
        raise ConfigError(f"{path!r} is damaged CSV: {exc} (line {reader.line_num})") from exc
    if not rows:
        raise ConfigError(f"{path!r} holds no row; expected CSV with a header")
    return list(reader.fieldnames or ()), rows


def _number(cell: str, column: str, line: int, path: str) -> float:
    try:
        found = float(cell)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(f"{path!r}, line {line}: {column} must be a number, got {cell!r}")
    return found
