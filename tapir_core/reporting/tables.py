"""The tables of a run as text cells, made once and shown in the terminal, in the report and as artifacts.

Rounds are columns, so that a run of a few rounds reads on a narrow screen.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from tapir_core.reporting.sentences import accuracy_note
from tapir_core.stages import lines
from tapir_core.summary.formats import (
    NOTHING,
    accuracy,
    count,
    duration,
    first_two_and_last,
    interval,
    most,
    number,
    percent,
    round_name,
    score,
    student_name,
)
from tapir_core.summary.types import RoundSummary, RunSummary, Score, StageSummary, Usage
from tapir_core.task_types import TASK_TYPES

__all__ = [
    "Table",
    "accuracy_table",
    "left_out_table",
    "mfd_table",
    "rounds_table",
    "scores_table",
    "seconds_table",
    "shares_table",
    "spend_table",
    "stages_table",
    "students_table",
]


@dataclass(frozen=True, slots=True)
class Table:
    """A table ready to be shown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    """How many columns from the left are text; the others are figures and line up at the right."""
    note: str = ""


def rounds_table(summary: RunSummary) -> Table:
    """What each round was made of and came to."""
    rows = [(label, *(cell(each) for each in summary.rounds)) for label, cell in _ROUND_ROWS]
    known = tuple(row for row in rows if any(cell != NOTHING for cell in row[1:]))
    names = tuple(round_name(each.number) for each in summary.rounds)
    note = accuracy_note(each.score(split) for each in summary.rounds for split in ("test", "dev"))
    return Table("Rounds", ("", *names), known, note=note)


def stages_table(summary: RoundSummary) -> Table:
    """The stages of one round with rows, calls, spend and time."""
    columns = ("Stage", "Asks", "Rows", "Missing", "Calls", "From store", "Tokens", "USD", "Time")
    rows = tuple(_stage_row(stage) for stage in summary.stages)
    return Table(f"Stages of {round_name(summary.number)}", columns, rows, text_columns=2, note=_OVERLAP)


def seconds_table(summary: RunSummary) -> Table:
    """Time by stage and round."""
    parts = [*([("once", summary.stages)] if summary.stages else [])]
    parts += [(round_name(each.number), each.stages) for each in summary.rounds]
    times = [{stage.name: stage.seconds for stage in stages} for _, stages in parts]
    names = [name for name in lines() if any(name in each for each in times)]
    rows = [(name, *(duration(each.get(name)) for each in times)) for name in names]
    rows.append(("sum of stages", *(duration(sum(each.values())) for each in times)))
    return Table("Time by stage", ("", *(name for name, _ in parts)), tuple(rows), note=_OVERLAP)


def spend_table(summary: RunSummary) -> Table:
    """What teacher and judge were asked, by stage, over the whole run."""
    rows = []
    for name in lines():
        asked = [stage for stage in summary.all_stages if stage.name == name and stage.asks in ("teacher", "judge")]
        if asked:
            merged = sum((stage.usage for stage in asked[1:]), asked[0].usage)
            rows.append((name, asked[0].asks, *_usage_cells(merged)))
    rows.append(("all", "", *_usage_cells(summary.usage)))
    columns = ("Stage", "Asks", "Calls", "From store", "Tokens in", "Tokens out", "USD")
    return Table("Spend", columns, tuple(rows), text_columns=2, note=_STORED)


def left_out_table(summary: RunSummary) -> Table:
    """Everything that was left out, by place and reason."""
    rows = [("pool", "reading", reason, count(rows)) for reason, rows in summary.dropped.items()]
    hits = summary.decontamination.benchmarks if summary.decontamination else ()
    rows += [("pool", "holds an evaluation question", each.benchmark, count(each.pool)) for each in hits if each.pool]
    rows += [("pool", "unusable teacher answer", reason, count(rows)) for reason, rows in _items(summary.unusable)]
    for stage in summary.stages:
        rows += [("pool", f"missing in {stage.name}", kind, count(rows)) for kind, rows in stage.missing.items()]
    for each in summary.rounds:
        rows += [(round_name(each.number), *cells) for cells in _left_out(each)]
    columns = ("Where", "What", "Reason", "Rows")
    tidy = tuple((where, what, reason.replace("_", " "), cell) for where, what, reason, cell in rows)
    return Table("Left out, by reason", columns, tidy, text_columns=3)


def shares_table(summary: RoundSummary) -> Table:
    """Task shares of one round's mixture: natural, target, got, and what lacks."""
    if summary.mixture is None:
        return Table("Task shares", ("Task type", "Natural", "Target", "Got", "Short"), ())
    shares = summary.mixture.shares.filter(pl.sum_horizontal("natural", "target", "got") > 0)
    rows = tuple(
        (name, *map(percent, values), count(summary.mixture.shortfall.get(name, 0))) for name, *values in shares.rows()
    )
    title = f"Task shares of {round_name(summary.number)}"
    return Table(title, ("Task type", "Natural", "Target", "Got", "Short"), rows)


def mfd_table(summary: RoundSummary) -> Table:
    """The MFD histogram of one round as text."""
    columns = ("MFD, points", "Instructions", "Histogram")
    mfd = [] if summary.difficulty is None else summary.difficulty["mfd"].to_list()
    bins: dict[int, int] = {}
    for value in mfd:
        place = int(value // 1)
        bins[place] = bins.get(place, 0) + 1
    most = max(bins.values(), default=1)
    places = range(min(bins, default=0), max(bins, default=-1) + 1)
    rows = tuple(
        (f"{place} to {place + 1}", count(bins.get(place, 0)), "█" * round(30 * bins.get(place, 0) / most))
        for place in places
    )
    note = f"δ = {number(summary.delta)}, {count(summary.seeds)} seeds; a bin holds its lower end, not its upper."
    return Table(f"MFD of {round_name(summary.number)}", columns, rows, note=note)


def _stage_row(stage: StageSummary) -> tuple[str, ...]:
    usage, asked = stage.usage, bool(stage.asks)
    tokens = usage.prompt_tokens + usage.completion_tokens
    return (
        stage.name,
        stage.asks or NOTHING,
        count(None if stage.name == "train" else stage.rows),
        count(sum(stage.missing.values())),
        count(usage.calls if asked else None),
        count(usage.stored if asked else None),
        count(tokens if asked else None),
        number(usage.usd if stage.asks in ("teacher", "judge") else None),
        duration(stage.seconds),
    )


def _usage_cells(usage: Usage) -> tuple[str, ...]:
    tokens = (usage.prompt_tokens, usage.completion_tokens)
    return (count(usage.calls), count(usage.stored), *map(count, tokens), number(usage.usd))


def _items(counts: dict[str, int] | None) -> list[tuple[str, int]]:
    return list((counts or {}).items())


def _left_out(summary: RoundSummary) -> list[tuple[str, str, str]]:
    """What, reason, rows."""
    found = [("unscored", reason, count(rows)) for reason, rows in _items(summary.unscored)]
    if summary.expansion is not None:
        gates = summary.expansion.rejected
        found += [("expansion rejected", f"gate {gate}", count(rows)) for gate, rows in gates.items()]
    if summary.refinement is not None:
        rejected = summary.refinement.rejected
        found += [("refined answer rejected", reason, count(rows)) for reason, rows in rejected.items()]
    for stage in summary.stages:
        found += [(f"missing in {stage.name}", kind, count(rows)) for kind, rows in stage.missing.items()]
    return found


def _of(first: int | None, second: int | None) -> str:
    return NOTHING if first is None else f"{count(first)} / {count(second)}"


def _expanded(each: RoundSummary) -> str:
    return _of(each.expansion.accepted, each.expansion.asked) if each.expansion else NOTHING


def _refined(each: RoundSummary) -> str:
    if each.refinement is None:
        return NOTHING
    return _of(each.refinement.accepted, each.refinement.accepted + sum(each.refinement.rejected.values()))


def _origin(name: str) -> Callable[[RoundSummary], str]:
    def cell(each: RoundSummary) -> str:
        if each.mixture is None or name not in each.mixture.origins:
            return NOTHING
        return count(each.mixture.origins[name])

    return cell


def _accuracy_rows(split: str) -> Iterator[tuple[str, Callable[[RoundSummary], str]]]:
    yield f"Accuracy, {split}, %", lambda each: accuracy(each.score(split))
    yield "  95 % interval", lambda each: interval(each.score(split))
    yield "  n / failed", lambda each: _of(found.n, found.n_failed) if (found := each.score(split)) else NOTHING


_ROUND_ROWS: tuple[tuple[str, Callable[[RoundSummary], str]], ...] = (
    ("Pool", lambda each: count(each.pool)),
    ("Scored", lambda each: count(each.scored)),
    ("Seeds", lambda each: count(each.seeds)),
    ("  not judged", lambda each: each.not_judged or NOTHING),
    ("Hard share", lambda each: percent(each.hard_share)),
    ("δ, points", lambda each: number(each.delta)),
    ("Order gap, points", lambda each: number(each.order_gap)),
    ("Expansion accepted / asked", _expanded),
    ("Refined accepted / drawn", _refined),
    ("Mixture", lambda each: count(each.mixture.rows if each.mixture else None)),
    ("  from the pool", _origin("pool")),
    ("  seeds", _origin("seed")),
    ("  expansion", _origin("expansion")),
    ("  easy", _origin("easy")),
    ("  short of N", lambda each: count(each.mixture.missing if each.mixture else None)),
    *_accuracy_rows("test"),
    *_accuracy_rows("dev"),
    ("Calls", lambda each: count(each.usage.calls) if each.number > 0 else NOTHING),
    ("From store", lambda each: count(each.usage.stored) if each.number > 0 else NOTHING),
    ("USD", lambda each: number(each.usage.usd) if each.number > 0 else NOTHING),
    ("Time", lambda each: duration(each.seconds)),
)

_OVERLAP = (
    "Time is that of a stage's last start. Answer and judge overlap, so do label and teach: sums exceed the clock."
)
_STORED = (
    "Calls to teacher and judge that the last start of each stage made; from store: answers that were there already, "
    "of another run or of an earlier start. USD is the price of both, each paid for once."
)


_COLUMNS = ("Accuracy, %", "95 % interval", "n", "Failed")


def accuracy_table(summary: RunSummary, split: str = "test") -> Table:
    """Held-out accuracy by task type: backbone, S_0 and the last student."""
    students = first_two_and_last(summary.students)
    names = [name for name in ("all", *TASK_TYPES) if any(each.score(split, name) for each in students)]
    rows = []
    for name in names:
        scores = [each.score(split, name) for each in students]
        rows.append((name, *map(score, scores), most(scores)))
    columns = ("Task type", *(student_name(each.number) for each in students), "n")
    note = f"n counts what failed, too. {accuracy_note(each.score(split) for each in students)}"
    return Table(f"Accuracy by task type ({split})", columns, tuple(rows), note=note)


def scores_table(summary: RoundSummary) -> Table:
    """Every held-out score of one student."""
    rows = [] if summary.scores is None else summary.scores.select("split", "category").rows()
    scores = {row: summary.score(*row) for row in rows}
    cells = tuple((*row, *_score_cells(found)) for row, found in scores.items())
    title = f"Held-out accuracy of {student_name(summary.number)}"
    note = accuracy_note(scores.values())
    return Table(title, ("Split", "Task type", *_COLUMNS), cells, text_columns=2, note=note)


def students_table(summary: RunSummary, numbers: Sequence[int]) -> Table:
    """Held-out accuracy of these students, by split; of one student alone by task type too."""
    found = [each for number in numbers if (each := summary.round(number)) is not None and each.scores is not None]
    if len(found) == 1:
        return scores_table(found[0])
    rows = []
    for each in found:
        scores = {split: each.score(split) for split in ("dev", "test")}
        rows += [(student_name(each.number), split, *_score_cells(one)) for split, one in scores.items() if one]
    note = accuracy_note(each.score(split) for each in found for split in ("dev", "test"))
    return Table("Held-out accuracy", ("Student", "Split", *_COLUMNS), tuple(rows), text_columns=2, note=note)


def _score_cells(found: Score | None) -> tuple[str, ...]:
    """The cells of an accuracy under ``_COLUMNS``."""
    counts = (None, None) if found is None else (found.n, found.n_failed)
    return (accuracy(found), interval(found), *map(count, counts))
