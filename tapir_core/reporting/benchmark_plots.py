"""Benchmarks through the rounds as curves, and by category as a radar: functions from scores to inline SVG.

A line joins figures of one judge, prompt and settings only; others have a panel of their own.
"""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from tapir_core.evaluation.statistics import ALL
from tapir_core.reporting.figure import COLOURS, GREY, draw
from tapir_core.reporting.formats import student_name

__all__ = ["plot_benchmark_categories", "plot_benchmarks"]

_FEWEST_SPOKES = 3
_COMPARED = 3


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


def plot_benchmark_categories(label: str, rows: pl.DataFrame) -> str:
    """A radar of one headline by category (number, category, value): backbone, S_0 and the last student.

    Categories without a figure of all students are left out; nothing is drawn of fewer than three.
    """
    numbers = rows["number"].unique(maintain_order=True).to_list()
    shown = numbers if len(numbers) <= _COMPARED else [*numbers[: _COMPARED - 1], numbers[-1]]
    values = {(number, name): value for number, name, value in rows.select("number", "category", "value").rows()}
    names = [
        name
        for name in rows["category"].unique(maintain_order=True)
        if name != ALL and all(values.get((number, name)) is not None for number in shown)
    ]
    if len(names) < _FEWEST_SPOKES:
        return ""
    angles = [2 * math.pi * place / len(names) for place in range(len(names))]

    def fill(figure: Any) -> None:
        axes = figure.subplots(subplot_kw={"projection": "polar"})
        axes.set_theta_offset(math.pi / 2)
        axes.set_theta_direction(-1)
        for number, colour in zip(shown, (GREY, *COLOURS), strict=False):
            found = [values[number, name] for name in names]
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
