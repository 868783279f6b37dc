"""Figures as a reader wants them: one spelling for the terminal, the report and the artifacts."""

from datetime import UTC, datetime

from tapir_core.paths import BACKBONE
from tapir_core.reporting.types import Gain, Score
from tapir_core.stage_at import Compared

__all__ = [
    "NOTHING",
    "count",
    "duration",
    "gain",
    "moment",
    "number",
    "percent",
    "round_name",
    "score",
    "student_name",
]

NOTHING = "–"
"""What is not known, or not done yet."""


def count(value: float | None) -> str:
    """12,345."""
    return NOTHING if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 2) -> str:
    """3.25."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """34.2 %."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def score(value: Score | None) -> str:
    """41.2 ± 3.2, in per cent with its standard error."""
    return NOTHING if value is None else f"{100 * value.value:.1f} ± {100 * value.stderr:.1f}"


def gain(value: Gain, unit: str = " percentage points") -> str:
    """+5.4 ± 2.1 percentage points."""
    return f"{100 * value.value:+.1f} ± {100 * value.stderr:.1f}{unit}"


def duration(seconds: float | None) -> str:
    """0.4 s, 41 s, 3 min 05 s, 2 h 14 min."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(iso: str) -> str:
    """2026-01-31 17:05 UTC."""
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if iso else NOTHING


def round_name(number: int) -> str:
    """What a round is called: backbone, S_0, round 1, …"""
    return student_name(number) if number < 1 else f"round {number}"


def student_name(who: Compared) -> str:
    """What the student after a round is called: backbone, S_0, S_1, …; a model of a file has its own name."""
    if isinstance(who, str):
        return who
    return "backbone" if who == BACKBONE else f"S_{who}"
