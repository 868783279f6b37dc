"""Figures as a reader wants them: one spelling for the terminal, the report and the artifacts."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from rich import filesize

from tapir_core.paths import OF_NO_ROUND
from tapir_core.stages import Compared
from tapir_core.summary.types import Gain, Score

_Item = TypeVar("_Item")

NOTHING = "–"
"""What is not known, or not done yet."""


def count(value: float | None) -> str:
    """12,345."""
    return NOTHING if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 2) -> str:
    """3.25."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.{digits}f}"


data_size = filesize.decimal
"""1.2 MB."""


def percent(value: float | None) -> str:
    """34.2 %."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def points(value: float | None) -> str:
    """+0.50, in points of the judge's scale; never -0.00."""
    return NOTHING if value is None else f"{value:+z.2f}"


def correlation(value: float) -> str:
    """0.42, a number from -1 to 1; never -0.00."""
    return f"{value:z.2f}"


def accuracy(value: Score | None) -> str:
    """41.2, in per cent."""
    return NOTHING if value is None else "no figure" if value.value is None else f"{100 * value.value:.1f}"


def interval(value: Score | None) -> str:
    """35.2 to 47.5: the 95 % interval of an accuracy, in per cent."""
    return (value.span(lambda end: f"{100 * end:.1f}") if value else "") or NOTHING


def metric_name(metric: str) -> str:
    """What a figure of the held-out set is called: accuracy, quality retention, …"""
    return metric.replace("_", " ")


def score(value: Score | None) -> str:
    """41.2 (35.2 to 47.5), in per cent with its 95 % interval; what failed stands behind it."""
    if value is None:
        return NOTHING
    shown = accuracy(value) if value.value is None else f"{accuracy(value)} ({interval(value)})"
    return f"{shown}, {count(value.failed)} failed" if value.failed else shown


def score_in_words(value: Score) -> str:
    """41.2 % (35.2 to 47.5), n = 240, 0 failed."""
    return (
        f"no figure: {value.note}"
        if value.value is None
        else f"{percent(value.value)} ({interval(value)}), n = {count(value.n)}, {count(value.failed)} failed"
    )


def gain(value: Gain) -> str:
    """+5.4 (+1.2 to +9.6), p = 0.0130, in percentage points with its 95 % interval."""
    found = value.paired
    return (
        f"no figure, {found.failed} failed"
        if found.value is None
        else f"{found.value:+.1f} ({found.span('{:+.1f}'.format) or found.note}), p = {number(found.p, 4)}"
    )


def most(scores: Iterable[Score | None]) -> str:
    """How many instructions a figure has where no answer failed."""
    return count(max((each.n + each.failed for each in scores if each is not None), default=None))


def duration(seconds: float | None) -> str:
    """0.4 s, 41 s, 3 min 05 s, 2 h 14 min."""
    if seconds is None or math.isnan(seconds):
        return NOTHING
    whole = round(seconds)
    return (
        f"{seconds:.1f} s"
        if seconds < 10
        else f"{whole} s"
        if whole < 60
        else f"{whole // 60} min {whole % 60:02d} s"
        if whole < 3600
        else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def minutes(seconds: float) -> str:
    """57 min, 2 h 14 min: of a time that nobody knows to the second."""
    whole = max(1, round(seconds / 60))
    return f"{whole} min" if whole < 60 else f"{whole // 60} h {whole % 60:02d} min"


def moment(iso: str) -> str:
    """2026-01-31 17:05 UTC."""
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if iso else NOTHING


def first_two_and_last(items: Sequence[_Item]) -> list[_Item]:
    """What a table or plot compares: backbone, S_0 and the last student, where all are there."""
    return [*items] if len(items) < 3 else [*items[:2], items[-1]]


def round_name(number: int) -> str:
    """What a round is called: backbone, S_0, round 1, …, average."""
    return OF_NO_ROUND.get(number, f"round {number}" if number else student_name(number))


def student_name(who: Compared) -> str:
    """What a student is called: backbone, S_0, S_1, …, average; a model of a file has its own name."""
    return who if isinstance(who, str) else OF_NO_ROUND.get(who, f"S_{who}")
