"""The plots of a comparison of arms, each a function to an inline SVG.

Limits: colours repeat after seven arms; markers and the order of the legend still tell them apart.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from tapir_core.comparison.figures import ArmRow
from tapir_core.reporting.figure import COLOURS, GREY, INK, draw
from tapir_core.task_types import TASK_TYPES

__all__ = ["plot_curves", "plot_differences", "plot_task_types"]

_MARKERS = ("D", "o", "s", "^", "v", "P", "X", "*", "<", ">")


_LABEL_LETTERS = 30
"""Where the name of an arm is broken beside its row."""
_APART = 0.012
"""Between the points of arms that trained on as much, as a share of that."""


def plot_differences(rows: Sequence[ArmRow]) -> str:
    """Difference to random of each arm that has one: 90 % interval thick, 95 % thin; exploratory arms grey.

    Backbone and S_0 are no arms: so far below that nobody could tell the others apart.
    """
    shown = [(row, row.to_random) for row in rows if row.costs and row.to_random is not None]

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for place, (row, found) in enumerate(shown):
            colour = GREY if row.exploratory else COLOURS[0]
            axes.hlines(place, 100 * found.low95, 100 * found.high95, color=colour, linewidth=1.2)
            axes.hlines(place, 100 * found.low90, 100 * found.high90, color=colour, linewidth=3.6)
            axes.plot([100 * found.value], [place], "D", color=colour, markersize=6)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(shown)), [textwrap.fill(row.label, _LABEL_LETTERS) for row, _ in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("points ahead of random")

    return draw("Difference of each arm to random, with intervals", 0.9 + 0.4 * len(shown), fill)


def plot_curves(rows: Sequence[ArmRow]) -> str:
    """Test accuracy after each round of the primary arms by the tokens trained on, with 90 % intervals.

    Exploratory arms have fewer run seeds, so their curves begin at another S_0.
    """
    shown = [row for row in rows if len(row.curve) > 1 and not row.exploratory]
    apart = _APART * max((row.curve[-1].tokens for row in shown), default=0) / 1000

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for place, row in enumerate(shown):
            beside = apart * (place - (len(shown) - 1) / 2)
            middle = [100 * point.test.value for point in row.curve]
            below = [100 * (point.test.value - point.test.low90) for point in row.curve]
            above = [100 * (point.test.high90 - point.test.value) for point in row.curve]
            axes.errorbar(
                [point.tokens / 1000 + beside for point in row.curve],
                middle,
                yerr=[[max(0.0, each) for each in below], [max(0.0, each) for each in above]],
                color=COLOURS[place % len(COLOURS)],
                marker=_MARKERS[place % len(_MARKERS)],
                markersize=5,
                capsize=2,
                linewidth=1.3,
                label=row.label,
            )
        axes.set_xlabel("thousand training tokens after S_0")
        axes.set_ylabel("accuracy on the test split, %")
        figure.legend(loc="outside upper center", ncols=1)

    return draw("Test accuracy by training tokens", 3.0 + 0.2 * len(shown), fill)


def plot_task_types(rows: Sequence[ArmRow]) -> str:
    """Test accuracy of each row on each task type, as bars."""
    names = [name for name in TASK_TYPES if any(name in row.task_types for row in rows)]
    arms = [row.name for row in rows if row.costs]
    thickness = 0.84 / max(1, len(rows))

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for offset, row in enumerate(rows):
            axes.barh(
                [place + thickness * (offset - (len(rows) - 1) / 2) for place in range(len(names))],
                [100 * row.task_types[name].value if name in row.task_types else math.nan for name in names],
                thickness * 0.92,
                color=COLOURS[arms.index(row.name) % len(COLOURS)] if row.costs else GREY,
                label=row.label,
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy on the test split, %")
        figure.legend(loc="outside upper center", ncols=1)

    height = 0.9 + 0.2 * len(rows) + (0.12 + 0.09 * len(rows)) * len(names)
    return draw("Test accuracy of the arms by task type", height, fill)
