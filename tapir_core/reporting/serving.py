"""What is asked of a student before it is put to work: did anything get worse, and what does it cost to serve?

Two tables: the untouched backbone, the reported student (the best one by the dev split, else the last one) and the
teacher side by side; and that student as this run served it beside the teacher as it was called. What the run does not
know has no row.

Limits: those of `unusable_reason`. The teacher answered the test split of a judged held-out set, which is drawn from
what it answered usably; of a run without one its answers are those to the pool. Lengths are in each model's own tokens.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from statistics import fmean, median
from typing import NamedTuple

import polars as pl

from tapir_core import stages, statistics
from tapir_core.calls.timing import Speed, speed_of
from tapir_core.curriculum import unusable_reason
from tapir_core.paths import AVERAGE, BACKBONE
from tapir_core.reporting import benchmarks, page, sentences
from tapir_core.storage import Storage
from tapir_core.summary import RunReader, formats, types

_ENDINGS = {"refused": "Refused", "empty": "Empty", "cut_off": "Cut off", "looped": "Looped", "copied": "Copied"}
"""Why an answer is of no use → its row; what failed altogether counts in none."""

_Values = Mapping[str, float | None]
"""Instruction or question → its value; None where it has none."""


def serving_tables(reader: RunReader, best: int | None) -> list[page.Table]:
    """Both tables, of the student that is reported; none before one was trained. ``best`` is the best by dev split."""
    numbers = (each for each in reader.run.config.students if each != BACKBONE)
    made = [each for each in numbers if reader.manifest(stages.checkpoint_at(each))]
    trained = [each for each in made if each != AVERAGE]
    answered = [each for each in trained if reader.manifest(stages.ANSWER_HELDOUT.at(each))]
    # Without a best student the last that answered the held-out set, or was trained.
    student = best if best in made else max(answered or trained, default=None)
    return [] if student is None else [before_after_table(reader, student), cost_table(reader, student)]


class _Row(NamedTuple):
    """A figure of several models."""

    label: str
    cells: dict[str, str]
    """Model → its figure."""
    difference: statistics.Estimate | None = None
    """Of student and backbone."""
    got_worse: bool = False
    """Whether the whole interval of the difference lies on the worse side."""

    @property
    def change(self) -> str:
        """The difference in words."""
        found = self.difference
        if found is None or found.value is None:
            return formats.NOTHING
        if found.value == found.stderr == 0:
            return "none changed"
        span = "" if found.low is None else f" ({found.low:+.1f} to {found.high:+.1f})"
        return f"{found.value:+.1f}{span}{', worse' if self.got_worse else ''}"


def before_after_table(reader: RunReader, student: int) -> page.Table:
    """Answers that are of no use, their length, and the headlines of benchmarks that nobody judges."""
    before, after = formats.student_name(BACKBONE), formats.student_name(student)
    judged = reader.run.config.data.judged is not None
    # The judged set, which the teacher answered too; without one, that with references.
    heldout = reader.rows((stages.JUDGED_HELDOUT if judged else stages.HELDOUT).at())
    test = None if heldout is None else heldout.filter(split="test")
    answers = {
        before: _with_ending(reader.rows(stages.ANSWER_HELDOUT.at(BACKBONE)), test),
        after: _with_ending(reader.rows(stages.ANSWER_HELDOUT.at(student)), test),
        "teacher": _with_ending(reader.rows(stages.TEACH.at()), test if judged else reader.rows(stages.POOL.at())),
    }
    known = {name: rows for name, rows in answers.items() if rows is not None and rows.height}
    of_answers = _of_answers(student, known) if after in known else ()
    rows = [row for row in (*of_answers, *_of_benchmarks(reader, student)) if row.cells]
    models = [name for name in answers if any(name in row.cells for row in rows)]
    return page.Table(
        "Before and after",
        ("", *models, f"{after} less {before}"),
        tuple((row.label, *(row.cells.get(name, formats.NOTHING) for name in models), row.change) for row in rows),
        note=_before_after_note(after, rows, is_judged=judged),
    )


def _before_after_note(student: str, rows: list[_Row], *, is_judged: bool) -> str:
    worse = ", ".join(row.label for row in rows if row.got_worse) or "no row"
    asked = (
        "those to the same instructions in every column: the test split of the judged held-out set, drawn from the "
        "instructions with a usable answer of the teacher, whose answers there are neither empty nor cut off"
        if is_judged
        else "those to the test split, the teacher's those to the pool, which are other instructions"
    )
    return sentences.together(
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


def _with_ending(answers: pl.DataFrame | None, asked: pl.DataFrame | None) -> pl.DataFrame | None:
    """The answers to what was ``asked``, with `ending`: why one is of no use, or an empty text."""
    if answers is None or asked is None:
        return None
    rows = answers.join(asked.select("instruction_id", "instruction"), on="instruction_id", maintain_order="left")
    told = rows.select("response", "finish_reason", "instruction").iter_rows()
    return rows.with_columns(ending=pl.Series([unusable_reason(*each) or "" for each in told], dtype=pl.String))


def _of_answers(student: int, known: Mapping[str, pl.DataFrame]) -> Iterator[_Row]:
    yield _Row("Answers", {name: formats.count(rows.height) for name, rows in known.items()})
    for ending, label in _ENDINGS.items():
        # 100 for an answer that ended so, 0 for another one, None where there is none.
        mark = pl.when(~pl.col("ending").str.starts_with("failed")).then(100.0 * (pl.col("ending") == ending))
        values = {name: dict(rows.select("instruction_id", mark).iter_rows()) for name, rows in known.items()}
        yield _mean_row(student, label, values, lambda value: formats.percent(value / 100), worse=1)
    lengths = {
        name: dict(rows.drop_nulls("response").select("instruction_id", pl.col("completion_tokens") * 1.0).iter_rows())
        for name, rows in known.items()
    }
    yield _mean_row(student, "Tokens, mean", lengths, lambda value: formats.number(value, 1))
    yield _Row("Tokens, median", {name: formats.number(median(of.values()), 1) for name, of in lengths.items() if of})


def _of_benchmarks(reader: RunReader, student: int) -> Iterator[_Row]:
    """The headline of each benchmark that marks answers itself, such as IFEval's."""
    evaluation = reader.run.config.evaluation
    for name in (each for each in evaluation.asked if each not in evaluation.judged):
        values = {each: benchmarks.headline_values(reader, name, each) for each in (BACKBONE, student)}
        metric = next(iter(values[student]), None)
        if metric is not None:
            scores = [reader.rows(stages.benchmark_stages(name, each)[-1]) for each in values if values[each]]
            alike = all(scores[0][part][0] == scores[-1][part][0] for part in benchmarks.DIFFERS)  # type: ignore[index]
            shown = {formats.student_name(each): of[metric] for each, of in values.items() if metric in of}
            yield _mean_row(
                student,
                f"{name}: {benchmarks.metric_label(metric)}",
                shown,
                lambda value: formats.number(value, 1),
                worse=-1,
                limit=evaluation.asked[name].max_failed_share if alike else None,
            )


def _mean_row(
    student: int,
    label: str,
    values: Mapping[str, _Values],
    cell: Callable[[float], str],
    *,
    worse: int = 0,
    limit: float | None = statistics.MAX_FAILED_SHARE,
) -> _Row:
    """Means, and the difference of ``student`` and backbone paired over what both have.

    ``limit`` is the share (0-1) that may fail; None where the two cannot be compared.
    """
    kept = {name: [value for value in of.values() if value is not None] for name, of in values.items()}
    cells = {name: cell(fmean(of)) for name, of in kept.items() if of}
    after, before = values.get(formats.student_name(student)), values.get(formats.student_name(BACKBONE))
    if limit is None or not after or not before:
        return _Row(label, cells)
    found = statistics.compare_paired(after, before, max_failed_share=limit, unit="answers")
    return _Row(
        label,
        cells,
        difference=found,
        got_worse=found.low is not None and found.high is not None and min(worse * found.low, worse * found.high) > 0,
    )


def cost_table(reader: RunReader, student: int) -> page.Table:
    """The student as this run served it, beside the teacher as it was called."""
    name, speed = formats.student_name(student), _speed_of(reader, student)
    taught = _speed(reader, [stages.TEACH.at()])
    served = {name: served_as(reader, student), "teacher": _speed_cells(taught) | _price(reader)}
    labels = dict.fromkeys(label for of in served.values() for label in of)
    rows = [(label, *(of.get(label, formats.NOTHING) for of in served.values())) for label in labels]
    by = "; then with ".join(speed.by if speed else ())
    notes = (
        by and f"{name} answered with {by}.",
        "Speed is that of this run's own requests: output tokens a second while calls were in flight; seconds from "
        "sending a call until its answer came, right to 5 %, without waiting for a turn and without failed "
        "attempts. More calls in flight mean more tokens a second and more seconds an answer: where they differ "
        "much, the seconds say nothing of one model beside the other."
        if speed or taught
        else "",
        "USD is what the teacher's plain answers to the pool cost; the price of the student's machine is not known."
        if _USD in labels
        else "",
    )
    return page.Table(
        "What it costs to serve",
        ("", *served),
        tuple(row for row in rows if any(cell != formats.NOTHING for cell in row[1:])),
        note=sentences.together(notes),
    )


def served_as(reader: RunReader, student: int) -> dict[str, str]:
    """Size and speed of a student as its run served it, each by what it is called."""
    return _sizes(reader, student) | _speed_cells(_speed_of(reader, student))


def _speed_of(reader: RunReader, student: int) -> Speed | None:
    asked = [stages.BENCHMARK_ANSWERS.at(student, benchmark=each) for each in reader.run.config.evaluation.asked]
    return _speed(reader, [stages.ANSWER_HELDOUT.at(student), stages.ANSWER.at(student + 1), *asked])


def _speed(reader: RunReader, asked: Iterable[stages.StageAt]) -> Speed | None:
    return speed_of([manifest.counts for at in asked if (manifest := reader.manifest(at)) is not None])


def _speed_cells(speed: Speed | None) -> dict[str, str]:
    if speed is None:
        return {}
    return {
        "Output tokens/s": formats.number(speed.tokens_per_second, 1),
        "Seconds an answer, p50": formats.number(speed.p50_seconds),
        "Seconds an answer, p95": formats.number(speed.p95_seconds),
        "Calls in flight, mean": formats.number(speed.in_flight, 1),
        "Answers timed": formats.count(speed.answers),
    }


def _sizes(reader: RunReader, student: int) -> dict[str, str]:
    at, storage = stages.checkpoint_at(student), reader.run.storage
    manifest, sizes = reader.manifest(at), storage.files(at.folder)
    paths = [f"{at.folder}/{part.name}" for part in manifest.parts] if manifest else []
    weights = [_parameters(storage, path, sizes[path]) for path in paths if path.endswith(".safetensors")]
    counted, size = [each for each in weights if each is not None], sum(sizes[path] for path in paths)
    return {
        **({"Parameters": formats.count(sum(counted))} if counted and len(counted) == len(weights) else {}),
        **({"Size on disk": formats.data_size(size)} if size else {}),
    }


def _price(reader: RunReader) -> dict[str, str]:
    """Of the teacher's plain answers, at the prices of this run."""
    manifest = reader.manifest(stages.TEACH.at())
    usage = types.Usage.of(manifest.counts) if manifest else types.Usage()
    answers = usage.calls + usage.stored
    # Nothing charged is no price: the model may be one's own, or its price unknown.
    return {_USD: formats.number(1000 * usage.usd / answers)} if answers and usage.usd else {}


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


_USD = "USD per 1,000 answers"
