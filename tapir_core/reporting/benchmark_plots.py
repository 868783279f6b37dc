"""Benchmarks through the rounds as curves, and by category as a radar: functions from scores to inline SVG.

A line joins figures of one judge, prompt and settings only; others have a panel of their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from tapir_core.evaluation.statistics import ALL
from tapir_core.reporting.figure import COLOURS, GREY, draw
from tapir_core.summary.formats import first_two_and_last, student_name

__all__ = ["Spokes", "choose_spokes", "plot_benchmark_categories", "plot_benchmarks"]

_FEWEST_SPOKES = 3


def plot_benchmarks(panels: Sequence[tuple[str, pl.DataFrame]]) -> str:
    """One panel a headline with 95 % intervals; each of ``panels`` is its label and rows (number, value, low, high)."""

    def fill(figure: Any) -> None:
        found = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, (label, rows), colour in zip(found, panels, _cycled(len(panels)), strict=True):
            shown = rows.filter(pl.col("value").is_not_null())
            errors = [
                [value - low if low is not None else 0.0 for value, low in shown.select("value", "low").rows()],
                [high - value if high is not None else 0.0 for value, high in shown.select("value", "high").rows()],
            ]
            places = [rows["number"].to_list().index(number) for number in shown["number"]]
            axes.errorbar(
                places, shown["value"].to_list(), yerr=errors, color=colour, marker="o", markersize=5, capsize=3
            )
            axes.set_xticks(range(rows.height), [student_name(number) for number in rows["number"]])
            axes.set_xlim(-0.4, rows.height - 0.6)
            axes.set_title(label)
        found[-1].set_xlabel("student")

    return draw("Benchmarks by round with intervals", 0.5 + 1.7 * len(panels), fill)


@dataclass(frozen=True, slots=True)
class Spokes:
    """What a radar of one headline by category shows, and what it cannot show."""

    students: tuple[int, ...]
    """Rounds: the first two and the last."""
    values: dict[str, tuple[float, ...]]
    """Category → a figure of each student."""
    left_out: dict[str, list[str]]
    """Which student has no figure, and why → the categories that are left out for it."""

    @property
    def drawn(self) -> bool:
        """Whether there are categories enough for a radar."""
        return len(self.values) >= _FEWEST_SPOKES

    @property
    def in_words(self) -> str:
        """Which categories are not there and why; empty where all are."""
        told = [f"{', '.join(names)} ({why})" for why, names in self.left_out.items()]
        return f"Left out, for want of a figure of every student: {'; '.join(told)}." if told else ""


def choose_spokes(rows: pl.DataFrame) -> Spokes:
    """The categories of which every student that is shown has a figure: the first two and the last one asked.

    ``rows`` are those of one headline under one judge: number, category, value, note.
    """
    shown = first_two_and_last(rows["number"].unique(maintain_order=True).to_list())
    found = {row[:2]: row[2:] for row in rows.select("number", "category", "value", "note").rows()}
    values: dict[str, tuple[float, ...]] = {}
    left_out: dict[str, list[str]] = {}
    for name in rows["category"].unique(maintain_order=True):
        if name == ALL:
            continue
        of = {number: found.get((number, name), (None, "not asked")) for number in shown}
        if why := [
            f"{student_name(number)}: {note or 'no figure'}" for number, (value, note) in of.items() if value is None
        ]:
            left_out.setdefault(", ".join(why), []).append(name)
        else:
            values[name] = tuple(value for value, _ in of.values())
    return Spokes(tuple(shown), values, left_out)


def plot_benchmark_categories(label: str, spokes: Spokes) -> str:
    """A radar of one headline by category; nothing is drawn of fewer than three."""
    if not spokes.drawn:
        return ""
    names = [*spokes.values]
    angles = [2 * math.pi * place / len(names) for place in range(len(names))]

    def fill(figure: Any) -> None:
        axes = figure.subplots(subplot_kw={"projection": "polar"})
        axes.set_theta_offset(math.pi / 2)
        axes.set_theta_direction(-1)
        for place, (number, colour) in enumerate(zip(spokes.students, (GREY, *COLOURS), strict=False)):
            found = [of[place] for of in spokes.values.values()]
            line = {"color": colour, "linewidth": 1.4, "marker": "o", "markersize": 3, "label": student_name(number)}
            axes.plot([*angles, angles[0]], [*found, found[0]], **line)
            axes.fill(angles, found, color=colour, alpha=0.08)
        axes.set_xticks(angles, names)
        axes.set_ylim(bottom=0)
        axes.set_title(label, pad=16)
        figure.legend(loc="outside lower center", ncols=3)

    return draw(f"{label} by category", 3.9, fill)


def _cycled(n: int) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(n)]
