"""The plots of a run, each a function from its data to an inline SVG.

Limits: a plot shows at most three rounds where more would not be told apart: the first and the last two.
"""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from tapir_core.reporting.figure import COLOURS, GREY, INK, draw
from tapir_core.stages import lines
from tapir_core.summary.formats import first_two_and_last, round_name, student_name
from tapir_core.summary.types import RoundSummary, Score, StageSummary
from tapir_core.task_types import TASK_TYPES

__all__ = [
    "interval_bars",
    "plot_accuracy",
    "plot_accuracy_by_task_type",
    "plot_mfd",
    "plot_order_gap",
    "plot_shares",
    "plot_time",
]

_BLUE, _ORANGE, _GREEN = COLOURS[:3]
_MARKERS = ("o", "s", "D")


def plot_mfd(rounds: Sequence[RoundSummary]) -> str:
    """MFD histogram of each round, one above the other on the same axis, with δ and the seeds in colour."""
    shown = [each for each in rounds if each.difficulty is not None]
    edges = _edges(pl.concat([_values(each, "mfd") for each in shown]))

    def fill(figure: Any) -> None:
        panels = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, each in zip(panels, shown, strict=True):
            _draw_parts(axes, each, edges)
            seeds = f", {each.seeds} of {each.scored} are seeds" if each.seeds is not None else ""
            axes.set_title(f"{round_name(each.number)}: student {student_name(each.number - 1)}{seeds}")
            if each.delta is not None:
                axes.axvline(each.delta, color=COLOURS[3], linewidth=1.4, linestyle="--")
                axes.annotate(
                    f"δ = {each.delta:.2f}",
                    (each.delta, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(4, -8),
                    textcoords="offset points",
                    color=COLOURS[3],
                )
        figure.supylabel("instructions", fontsize=9)
        panels[-1].set_xlabel("MFD = teacher's score − student's score, points of the judge's scale")

    return draw("Histogram of the MFD by round", 0.6 + 1.35 * len(shown), fill)


def plot_shares(rounds: Sequence[RoundSummary]) -> str:
    """Task shares: natural, target, and got by the mixtures of the rounds."""
    shown = _few([each for each in rounds if each.mixture is not None])
    tables = [each.mixture.shares for each in shown if each.mixture is not None]
    present = [
        any(values) for values in zip(*(row for table in tables for row in table.drop("task_type")), strict=True)
    ]
    names = [name for name, there in zip(TASK_TYPES, present, strict=True) if there]
    places = range(len(names))

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        shares = [table.filter(pl.Series(present)) for table in tables]
        natural, target = (_percents(shares[0][column]) for column in ("natural", "target"))
        axes.scatter(natural, places, s=34, facecolors="none", edgecolors=GREY, linewidths=1.3, label="natural")
        axes.scatter(target, places, s=110, marker="|", color=COLOURS[3], linewidths=1.8, label="target")
        for offset, (each, table) in enumerate(zip(shown, shares, strict=True)):
            heights = [place + 0.22 * (offset - (len(shown) - 1) / 2) for place in places]
            axes.scatter(
                _percents(table["got"]),
                heights,
                s=16,
                marker=_MARKERS[offset],
                color=COLOURS[offset],
                label=f"got in {round_name(each.number)}",
                zorder=3,
            )
        axes.set_yticks(list(places), names)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("share of the examples, %")
        figure.legend(loc="outside upper center", ncols=4)

    return draw("Task shares: natural, target and got by round", 0.9 + 0.19 * len(names), fill)


def plot_accuracy(students: Sequence[RoundSummary]) -> str:
    """Held-out accuracy of every student with 95 % intervals, dev and test."""

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for offset, (split, colour, marker) in enumerate((("test", _BLUE, "o"), ("dev", _ORANGE, "s"))):
            scores = [(place, score) for place, each in enumerate(students) if (score := each.score(split)) is not None]
            found = [(place, score) for place, score in scores if score.value is not None]
            if not found:
                continue
            places = [place + 0.08 * (2 * offset - 1) for place, _ in found]
            values, errors = interval_bars([score for _, score in found])
            axes.errorbar(
                places,
                values,
                yerr=errors,
                color=colour,
                marker=marker,
                markersize=5,
                capsize=3,
                linewidth=1.4,
                label=f"{split} ({found[0][1].n + found[0][1].n_failed} instructions)",
            )
        axes.set_xticks(range(len(students)), [student_name(each.number) for each in students])
        axes.set_xlim(-0.4, len(students) - 0.6)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("student")
        axes.set_ylabel("accuracy, %")
        axes.legend(loc="upper left")

    return draw("Held-out accuracy by round with 95 % intervals", 2.7, fill)


def plot_accuracy_by_task_type(students: Sequence[RoundSummary], split: str = "test") -> str:
    """Accuracy on each task type: backbone, S_0 and the last student, as bars with 95 % intervals."""
    shown = first_two_and_last(students)
    names = [name for name in TASK_TYPES if any(each.score(split, name) for each in shown)]
    thickness = 0.8 / len(shown)

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for offset, each in enumerate(shown):
            scores = [each.score(split, name) for name in names]
            heights = [place + thickness * (offset - (len(shown) - 1) / 2) for place in range(len(names))]
            values, errors = interval_bars(scores)
            axes.barh(
                heights,
                values,
                thickness * 0.92,
                xerr=errors,
                color=(GREY, _ORANGE, _BLUE)[offset - len(shown)],
                label=student_name(each.number),
                error_kw={"elinewidth": 0.8, "capsize": 1.5, "ecolor": INK, "alpha": 0.8},
            )
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.margins(y=0.01)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"accuracy on the {split} split, %")
        figure.legend(loc="outside upper center", ncols=3)

    return draw(f"Accuracy by task type on the {split} split", 0.9 + 0.34 * len(names), fill)


def plot_time(parts: Sequence[tuple[str, Sequence[StageSummary]]]) -> str:
    """Time by stage, stacked for each part of the run (name, stages); the shortest stages are one colour."""
    totals: dict[str, float] = {}
    for name in lines():
        times = [stage.seconds for _, stages in parts for stage in stages if stage.name == name]
        totals |= {name: sum(times)} if times else {}
    long = sorted(totals, key=lambda name: -totals[name])[: len(COLOURS)]
    unit, seconds = _unit(max((sum(stage.seconds for stage in stages) for _, stages in parts), default=0.0))

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        left = [0.0] * len(parts)
        series = [(name, {name}, COLOURS[long.index(name)]) for name in totals if name in long]
        series += [("other stages", set(totals) - set(long), GREY)] if len(totals) > len(long) else []
        for label, names, colour in series:
            widths = [sum(stage.seconds for stage in stages if stage.name in names) / seconds for _, stages in parts]
            axes.barh(range(len(parts)), widths, 0.62, left=left, color=colour, label=label)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(parts)), [name for name, _ in parts])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"time of all stages, {unit}")
        figure.legend(loc="outside upper center", ncols=4)

    return draw("Time by stage and round", 1.1 + 0.3 * len(parts), fill)


def plot_order_gap(rounds: Sequence[RoundSummary]) -> str:
    """Histogram of the order gap by round, with its mean: how far the order of the two answers moves the MFD."""
    shown = _few([each for each in rounds if each.order_gap is not None])
    edges = _edges(pl.concat([_values(each, "order_gap") for each in shown]))

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for offset, each in enumerate(shown):
            values = _values(each, "order_gap").to_list()
            weights = [100 / len(values)] * len(values)
            axes.hist(
                values,
                bins=edges,
                weights=weights,
                histtype="step",
                linewidth=1.5,
                color=COLOURS[offset],
                label=f"{round_name(each.number)}, mean {each.order_gap:+.2f}",
            )
            axes.axvline(each.order_gap, color=COLOURS[offset], linewidth=1, linestyle="--")
        axes.set_xlabel("order gap = MFD teacher first − MFD student first, points")
        axes.set_ylabel("share of the scored, %")
        axes.legend(loc="upper right")

    return draw("Histogram of the order gap by round", 2.3, fill)


def interval_bars(scores: Sequence[Score | None]) -> tuple[list[float], list[list[float]]]:
    """Accuracies in per cent, and how far below and above each its interval reaches; no number where there is none."""

    def percents(end: str) -> list[float]:
        found = (getattr(score, end, None) for score in scores)
        return [math.nan if each is None else 100 * each for each in found]

    lows, values, highs = map(percents, ("low", "value", "high"))
    below = [value - low for value, low in zip(values, lows, strict=True)]
    above = [high - value for value, high in zip(values, highs, strict=True)]
    return values, [below, above]


def _draw_parts(axes: Any, summary: RoundSummary, edges: list[float]) -> None:
    """Seeds in colour on top of the easy rest; everything is grey before the selection."""
    assert summary.difficulty is not None
    hard = pl.col("seed").fill_null(False)
    rest, seeds = (summary.difficulty.filter(part)["mfd"].to_list() for part in (~hard, hard))
    axes.hist([rest, seeds], bins=edges, stacked=True, color=[GREY, _BLUE], rwidth=0.9, label=["easy", "seeds"])


def _values(summary: RoundSummary, column: str) -> pl.Series:
    return pl.Series([]) if summary.difficulty is None else summary.difficulty[column].drop_nulls()


def _edges(values: pl.Series) -> list[float]:
    """Bins of half a point over all values."""
    found = values.to_list() or [0.0]
    low, high = math.floor(min(found)), math.floor(max(found)) + 1
    return [low + step / 2 for step in range(2 * (high - low) + 1)]


def _percents(shares: pl.Series) -> list[float]:
    return [100 * share for share in shares.to_list()]


def _few(rounds: list[RoundSummary]) -> list[RoundSummary]:
    return rounds if len(rounds) <= len(_MARKERS) else [rounds[0], *rounds[-2:]]


def _unit(longest_seconds: float) -> tuple[str, float]:
    """The unit in which the longest bar is easy to read, and its seconds."""
    if longest_seconds < 300:
        return "seconds", 1.0
    return ("minutes", 60.0) if longest_seconds < 3 * 3600 else ("hours", 3600.0)
