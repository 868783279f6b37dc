"""What is asked of a student before it is put to work: did anything get worse, and what does it cost to serve?

Two tables: the untouched backbone, the reported student (the best one by the dev split, else the last one) and the
teacher side by side; and that student as this run served it beside the teacher as it was called. What the run does not
know has no row.

Limits: those of `unusable_reason`. The teacher answered the test split of a judged held-out set, which is drawn from
what it answered usably; of a run without one its answers are those to the pool. Lengths are in each model's own tokens.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from statistics import fmean, median

import polars as pl

from tapir_core.calls.timing import Speed
from tapir_core.curriculum import unusable_reason
from tapir_core.paths import BACKBONE
from tapir_core.randomness import derive_rng
from tapir_core.reporting.benchmarks import DIFFERS, headline_values, metric_label
from tapir_core.reporting.page import Table
from tapir_core.reporting.sentences import together
from tapir_core.stages import (
    ANSWER,
    ANSWER_HELDOUT,
    BENCHMARK_ANSWERS,
    HELDOUT,
    JUDGED_HELDOUT,
    POOL,
    TEACH,
    TRAIN,
    benchmark_stages,
)
from tapir_core.statistics import MAX_FAILED_SHARE, Estimate, compare_paired
from tapir_core.storage import Storage
from tapir_core.summary import RunReader
from tapir_core.summary.formats import NOTHING, count, data_size, number, percent, student_name
from tapir_core.summary.types import Usage

_ENDINGS = {"refused": "Refused", "empty": "Empty", "cut_off": "Cut off", "looped": "Looped", "copied": "Copied"}
"""Why an answer is of no use → its row; what failed altogether counts in none."""

_Values = Mapping[str, float | None]
"""Instruction or question → its value; None where it has none."""


def serving_tables(reader: RunReader, best: int | None) -> list[Table]:
    """Both tables, of the student that is reported; none before one was trained. ``best`` is the best by dev split."""
    student = _reported(reader, best)
    return [] if student is None else [before_after_table(reader, student), cost_table(reader, student)]


def _reported(reader: RunReader, best: int | None) -> int | None:
    """The ``best`` student; without one the last that answered the held-out set, or was trained."""
    trained = [each for each in range(reader.run.config.run.rounds + 1) if reader.manifest(TRAIN.at(each))]
    answered = [each for each in trained if reader.manifest(ANSWER_HELDOUT.at(each))]
    return best if best in trained else max(answered or trained, default=None)


@dataclass(frozen=True, slots=True)
class _Row:
    """A figure of several models."""

    label: str
    cells: dict[str, str]
    """Model → its figure."""
    difference: Estimate | None = None
    """Of student and backbone."""
    worse: int = 0
    """Sign of a difference for the worse; 0 where neither is."""

    @property
    def got_worse(self) -> bool:
        """Whether the whole interval of the difference lies on the worse side."""
        found = self.difference
        if found is None or found.low is None or found.high is None:
            return False
        return self.worse * found.low > 0 and self.worse * found.high > 0

    @property
    def change(self) -> str:
        """The difference in words."""
        found = self.difference
        if found is None or found.value is None:
            return NOTHING
        if found.value == found.stderr == 0:
            return "none changed"
        span = "" if found.low is None else f" ({found.low:+.1f} to {found.high:+.1f})"
        return f"{found.value:+.1f}{span}{', worse' if self.got_worse else ''}"


def before_after_table(reader: RunReader, student: int) -> Table:
    """Answers that are of no use, their length, and the headlines of benchmarks that nobody judges."""
    before, after = student_name(BACKBONE), student_name(student)
    answers = {before: _heldout(reader, BACKBONE), after: _heldout(reader, student), "teacher": _taught(reader)}
    known = {name: rows for name, rows in answers.items() if rows is not None and rows.height}
    of_answers = _of_answers(reader, student, known) if after in known else ()
    rows = [row for row in (*of_answers, *_of_benchmarks(reader, student)) if row.cells]
    models = [name for name in answers if any(name in row.cells for row in rows)]
    return Table(
        "Before and after",
        ("", *models, f"{after} less {before}"),
        tuple((row.label, *(row.cells.get(name, NOTHING) for name in models), row.change) for row in rows),
        note=_before_after_note(after, rows, is_judged=reader.run.config.data.judged is not None),
    )


def _before_after_note(student: str, rows: list[_Row], *, is_judged: bool) -> str:
    worse = ", ".join(row.label for row in rows if row.got_worse) or "no row"
    asked = (
        "those to the same instructions in every column: the test split of the judged held-out set, drawn from the "
        "instructions with a usable answer of the teacher, whose answers there are neither empty nor cut off"
        if is_judged
        else "those to the test split, the teacher's those to the pool, which are other instructions"
    )
    return together(
        (
            f"{student} got worse than the untouched backbone beyond the 95 % interval in: {worse}. Differences are "
            "paired over the same instructions or questions, with 95 % intervals; those of shares are in percentage "
            "points."
            if any(row.difference for row in rows)
            else "",
            f"Answers are {asked}. Refused: the endpoint says so, or a short answer begins as an English "
            "refusal does. Cut off: the answer reached its limit of tokens. Looped: it says one thing over and over. "
            "Copied: it is half of its instruction or more, word for word. Each model counts tokens of its own."
            if any(row.label == "Answers" for row in rows)
            else "",
        )
    )


def _heldout(reader: RunReader, student: int) -> pl.DataFrame | None:
    """Its answers to the test split."""
    answers, test = reader.rows(ANSWER_HELDOUT.at(student)), _test_split(reader)
    return None if answers is None or test is None else _with_ending(answers, test)


def _taught(reader: RunReader) -> pl.DataFrame | None:
    """The teacher's answers to the test split of the judged set; to the pool, where there is none."""
    rows = reader.rows(TEACH.at())
    asked = _test_split(reader) if reader.run.config.data.judged else reader.rows(POOL.at())
    return None if rows is None or asked is None else _with_ending(rows, asked)


def _test_split(reader: RunReader) -> pl.DataFrame | None:
    """The test split of the judged set, which the teacher answered too; without one, of that with references."""
    rows = reader.rows((JUDGED_HELDOUT if reader.run.config.data.judged else HELDOUT).at())
    return None if rows is None else rows.filter(split="test")


def _with_ending(answers: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """The answers to what was ``asked``, with `ending`: why one is of no use, or an empty text."""
    rows = answers.join(asked.select("instruction_id", "instruction"), on="instruction_id", maintain_order="left")
    told = rows.select("response", "finish_reason", "instruction").iter_rows()
    return rows.with_columns(ending=pl.Series([unusable_reason(*each) or "" for each in told], dtype=pl.String))


def _of_answers(reader: RunReader, student: int, known: Mapping[str, pl.DataFrame]) -> Iterator[_Row]:
    yield _Row("Answers", {name: count(rows.height) for name, rows in known.items()})
    for ending, label in _ENDINGS.items():
        values = {name: _marks(rows, ending) for name, rows in known.items()}
        yield _mean_row(reader, student, label, values, lambda value: percent(value / 100), worse=1)
    lengths = {name: _lengths(rows) for name, rows in known.items()}
    yield _mean_row(reader, student, "Tokens, mean", lengths, lambda value: number(value, 1))
    yield _Row("Tokens, median", {name: number(median(of.values()), 1) for name, of in lengths.items() if of})


def _marks(rows: pl.DataFrame, ending: str) -> _Values:
    """100 for an answer that ended so, 0 for another one, None where there is none."""
    pairs = rows.select("instruction_id", "ending").iter_rows()
    return {name: None if came.startswith("failed") else 100.0 * (came == ending) for name, came in pairs}


def _lengths(rows: pl.DataFrame) -> dict[str, float]:
    """Tokens of each answer that has a text."""
    return dict(rows.drop_nulls("response").select("instruction_id", pl.col("completion_tokens") * 1.0).iter_rows())


def _of_benchmarks(reader: RunReader, student: int) -> Iterator[_Row]:
    """The headline of each benchmark that marks answers itself, such as IFEval's."""
    evaluation = reader.run.config.evaluation
    for name in (each for each in evaluation.asked if each not in evaluation.judged):
        values = {each: headline_values(reader, name, each) for each in (BACKBONE, student)}
        metric = next(iter(values[student]), None)
        if metric is not None:
            scores = [reader.rows(benchmark_stages(name, each)[-1]) for each in values if values[each]]
            alike = all(scores[0][part][0] == scores[-1][part][0] for part in DIFFERS)  # type: ignore[index]
            shown = {student_name(each): of[metric] for each, of in values.items() if metric in of}
            limit = evaluation.asked[name].max_failed_share if alike else None
            label = f"{name}: {metric_label(metric)}"
            yield _mean_row(reader, student, label, shown, lambda value: number(value, 1), worse=-1, limit=limit)


def _mean_row(
    reader: RunReader,
    student: int,
    label: str,
    values: Mapping[str, _Values],
    cell: Callable[[float], str],
    *,
    worse: int = 0,
    limit: float | None = MAX_FAILED_SHARE,
) -> _Row:
    """Means, and the difference of ``student`` and backbone paired over what both have.

    ``limit`` is the share (0-1) that may fail; None where the two cannot be compared.
    """
    kept = {name: [value for value in of.values() if value is not None] for name, of in values.items()}
    cells = {name: cell(fmean(of)) for name, of in kept.items() if of}
    after, before = values.get(student_name(student)), values.get(student_name(BACKBONE))
    if limit is None or not after or not before:
        return _Row(label, cells)
    rng = derive_rng(reader.run.config.run.seed, "before and after", label, student)
    found = compare_paired(after, before, rng=rng, max_failed_share=limit, unit="answers")
    return _Row(label, cells, found, worse)


@dataclass(frozen=True, slots=True)
class _Served:
    """What serving one model takes, as far as it is known."""

    parameters: int | None = None
    size_bytes: int | None = None
    speed: Speed | None = None
    usd_per_thousand: float | None = None
    """Of plain answers, at the prices of this run."""


def cost_table(reader: RunReader, student: int) -> Table:
    """The student as this run served it, beside the teacher as it was called."""
    served = {student_name(student): _served_student(reader, student), "teacher": _served_teacher(reader)}
    rows = [(label, *map(cell, served.values())) for label, cell in _COSTS]
    return Table(
        "What it costs to serve",
        ("", *served),
        tuple(row for row in rows if any(cell != NOTHING for cell in row[1:])),
        note=_cost_note(student_name(student), *served.values()),
    )


def _cost_note(name: str, student: _Served, teacher: _Served) -> str:
    by = "; then with ".join(student.speed.by if student.speed else ())
    return together(
        (
            by and f"{name} answered with {by}.",
            "Speed is that of this run's own requests: output tokens a second while calls were in flight; seconds from "
            "sending a call until its answer came, right to 5 %, without waiting for a turn and without failed "
            "attempts. More calls in flight mean more tokens a second, and more seconds an answer."
            if student.speed or teacher.speed
            else "",
            "USD is what the teacher's plain answers to the pool cost; the price of the student's machine is not known."
            if teacher.usd_per_thousand is not None
            else "",
        )
    )


def _served_student(reader: RunReader, number: int) -> _Served:
    at, storage = TRAIN.at(number), reader.run.storage
    manifest, sizes = reader.manifest(at), storage.files(at.folder)
    paths = [f"{at.folder}/{part.name}" for part in manifest.parts] if manifest else []
    weights = [_parameters(storage, path, sizes[path]) for path in paths if path.endswith(".safetensors")]
    counted = [each for each in weights if each is not None]
    asked = [BENCHMARK_ANSWERS.at(number, benchmark=name) for name in reader.run.config.evaluation.asked]
    stages = [ANSWER_HELDOUT.at(number), ANSWER.at(number + 1), *asked]
    found = [manifest.counts for at in stages if (manifest := reader.manifest(at)) is not None]
    return _Served(
        sum(counted) if counted and len(counted) == len(weights) else None,
        sum(sizes[path] for path in paths) or None,
        Speed.of(found),
    )


def _parameters(storage: Storage, path: str, size_bytes: int) -> int | None:
    """Numbers in a safetensors file, whose header says their shapes; nothing where it has none."""
    length = int.from_bytes(storage.read_bytes(path, 0, 8), "little")
    if not 0 < length <= size_bytes - 8:
        return None
    try:
        header: dict[str, dict[str, list[int]]] = json.loads(storage.read_bytes(path, 8, 8 + length))
        return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (ValueError, TypeError, KeyError, AttributeError):  # damaged: said when it is served or exported
        return None


def _served_teacher(reader: RunReader) -> _Served:
    manifest = reader.manifest(TEACH.at())
    if manifest is None:
        return _Served()
    usage = Usage.of(manifest.counts)
    answers = usage.calls + usage.stored
    # Nothing charged is no price: the model may be one's own, or its price unknown.
    price = 1000 * usage.usd / answers if answers and usage.usd else None
    return _Served(speed=Speed.of([manifest.counts]), usd_per_thousand=price)


def _of_speed(cell: Callable[[Speed], str]) -> Callable[[_Served], str]:
    return lambda served: NOTHING if served.speed is None else cell(served.speed)


_COSTS: tuple[tuple[str, Callable[[_Served], str]], ...] = (
    ("Parameters", lambda served: count(served.parameters)),
    ("Size on disk", lambda served: NOTHING if served.size_bytes is None else data_size(served.size_bytes)),
    ("Output tokens/s", _of_speed(lambda speed: number(speed.tokens_per_second, 1))),
    ("Seconds an answer, p50", _of_speed(lambda speed: number(speed.latency_seconds(0.5)))),
    ("Seconds an answer, p95", _of_speed(lambda speed: number(speed.latency_seconds(0.95)))),
    ("Calls in flight, mean", _of_speed(lambda speed: number(speed.in_flight, 1))),
    ("Answers timed", _of_speed(lambda speed: count(speed.answers))),
    ("USD per 1,000 answers", lambda served: number(served.usd_per_thousand)),
)
