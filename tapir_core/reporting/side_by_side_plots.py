"""The plots of runs side by side, each a function from the runs to an inline SVG.

Limits: colours repeat after seven runs; the order of bars and of the legend still tells them apart.
"""

from collections.abc import Sequence
from typing import Any

from tapir_core.reporting.figure import COLOURS, GREY, INK, draw
from tapir_core.reporting.plots import interval_bars
from tapir_core.reporting.side_by_side import last_student
from tapir_core.summary.types import RunSummary
from tapir_core.task_types import TASK_TYPES

__all__ = ["plot_answers", "plot_students", "plot_task_types"]

_STUDENTS = (("backbone", GREY, "o"), ("S_0", COLOURS[1], "s"), ("last student", COLOURS[0], "D"))


def plot_students(runs: Sequence[RunSummary]) -> str:
    """Test accuracy of backbone, S_0 and last student of each run, with 95 % intervals."""

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for offset, (label, colour, marker) in enumerate(_STUDENTS):
            students = [(run.round(-1), run.round(0), last_student(run))[offset] for run in runs]
            scores = [None if each is None else each.score("test") for each in students]
            found = [
                (place, score) for place, score in enumerate(scores) if score is not None and score.value is not None
            ]
            values, errors = interval_bars([score for _, score in found])
            axes.errorbar(
                values,
                [place + 0.16 * (offset - 1) for place, _ in found],
                xerr=errors,
                color=colour,
                marker=marker,
                markersize=5,
                capsize=3,
                linestyle="none",
                label=label,
            )
        _name_rows(axes, [run.name for run in runs])
        axes.set_xlim(-2, 102)
        axes.set_xlabel("accuracy on the test split, %")
        figure.legend(loc="outside upper center", ncols=3)

    return draw("Test accuracy of backbone, S_0 and last student by run", 0.9 + 0.5 * len(runs), fill)


def plot_task_types(runs: Sequence[RunSummary]) -> str:
    """Test accuracy of each run's last student on each task type, as bars with 95 % intervals."""
    students = [last_student(run) for run in runs]
    names = [name for name in TASK_TYPES if any(each is not None and each.score("test", name) for each in students)]
    thickness = 0.8 / len(runs)

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for offset, (run, student) in enumerate(zip(runs, students, strict=True)):
            values, errors = interval_bars([None if student is None else student.score("test", name) for name in names])
            axes.barh(
                [place + thickness * (offset - (len(runs) - 1) / 2) for place in range(len(names))],
                values,
                thickness * 0.92,
                xerr=errors,
                color=COLOURS[offset % len(COLOURS)],
                label=run.name,
                error_kw={"elinewidth": 0.8, "capsize": 1.5, "ecolor": INK, "alpha": 0.8},
            )
        _name_rows(axes, names)
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy of the last student on the test split, %")
        figure.legend(loc="outside upper center", ncols=2)

    height = 0.9 + (0.14 + 0.11 * len(runs)) * len(names)
    return draw("Test accuracy of the last students by task type", height, fill)


def plot_answers(runs: Sequence[RunSummary]) -> str:
    """Answers of teacher and judge: asked for by the run itself, and from the store."""

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        asked, stored = [run.usage.calls for run in runs], [run.usage.stored for run in runs]
        axes.barh(range(len(runs)), asked, 0.62, color=COLOURS[3], label="asked for")
        axes.barh(range(len(runs)), stored, 0.62, left=asked, color=COLOURS[2], label="from the store")
        _name_rows(axes, [run.name for run in runs])
        axes.set_xlabel("answers of teacher and judge")
        figure.legend(loc="outside upper center", ncols=2)

    return draw("Answers asked for and from the store by run", 0.9 + 0.35 * len(runs), fill)


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
