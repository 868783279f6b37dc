"""The plots of a run: its students, its benchmarks and its rounds, with the sentences that say how to read them.

Limits: a plot shows at most three rounds where more would not be told apart: the first and the last two. A line joins
figures of one judge, prompt and settings only; others have a panel of their own.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup

from tapir_core.evaluation.statistics import ALL
from tapir_core.judging.estimates import Estimate
from tapir_core.reporting.benchmarks import beside_in_words, headline_panels
from tapir_core.reporting.figure import (
    COLOURS,
    GREY,
    Plot,
    draw,
    draw_task_types,
    name_rows,
    points_with_intervals,
    stacked_bars,
)
from tapir_core.reporting.tables import stage_seconds
from tapir_core.stages import lines
from tapir_core.summary.formats import first_two_and_last, number, percent, round_name, student_name
from tapir_core.summary.types import RoundSummary, RunSummary
from tapir_core.task_types import TASK_TYPES

_MARKERS = ("o", "s", "D")
_FEWEST_SPOKES = 3


def score_plots(summary: RunSummary) -> list[Plot]:
    """The plots of held-out accuracy and of benchmarks, as far as somebody was asked."""
    heldout = [plot_accuracy(summary.students), plot_accuracy_by_task_type(summary.students)]
    return [plot for plot in (*heldout, *benchmark_plots(summary)) if plot is not None]


def plot_accuracy(students: Sequence[RoundSummary]) -> Plot | None:
    """Held-out accuracy of every student with 95 % intervals, dev and test."""
    if not students:
        return None

    def fill(axes: Any) -> None:
        for offset, (split, marker) in enumerate((("test", "o"), ("dev", "s"))):
            scores = [each.score(split) for each in students]
            if asked := [score for score in scores if score is not None and score.value is not None]:
                label = f"{split} ({asked[0].n + asked[0].n_failed} instructions)"
                places = [place + 0.08 * (2 * offset - 1) for place in range(len(students))]
                style = {"color": COLOURS[offset], "marker": marker, "label": label}
                points_with_intervals(axes, zip(places, scores, strict=True), style, scale=100)
        _name_students(axes, [each.number for each in students])
        axes.set(ylim=(0, None), xlabel="student", ylabel="accuracy, %")
        axes.legend(loc="upper left")

    return Plot(
        "Accuracy by round",
        draw("Held-out accuracy by round with 95 % intervals", 2.7, fill),
        "Share of held-out instructions with the right final result. Bars are 95 % intervals. The test split "
        "is read by no decision; the dev split is, so its curve may flatter the best round.",
    )


def plot_accuracy_by_task_type(students: Sequence[RoundSummary]) -> Plot | None:
    """Accuracy on each task type of the test split: backbone, S_0 and the last student."""
    if not students:
        return None
    shown = first_two_and_last(students)
    colours = (GREY, COLOURS[1], COLOURS[0])[-len(shown) :]
    series = [
        (student_name(each.number), colour, each.by_task_type()) for each, colour in zip(shown, colours, strict=True)
    ]
    return Plot(
        "Accuracy by task type",
        draw_task_types(
            "Accuracy by task type on the test split", "accuracy on the test split, %", series, legend_columns=3
        ),
        "Test split; lines are 95 % intervals.",
    )


def plot_mfd(rounds: Sequence[RoundSummary]) -> Plot | None:
    """MFD histogram of each judged round, one above the other on the same axis, with δ and the seeds in colour."""
    shown = [(each, each.difficulty) for each in rounds if each.difficulty is not None]
    if not shown:
        return None
    edges = _edges(pl.concat([rows["mfd"] for _, rows in shown]))

    def fill(panels: Any) -> None:
        for axes, (each, rows) in zip(panels[:, 0], shown, strict=True):
            _draw_seeds(axes, rows, edges)
            seeds = f", {each.seeds} of {each.scored} are seeds" if each.seeds is not None else ""
            axes.set_title(f"{round_name(each.number)}: student {student_name(each.number - 1)}{seeds}")
            if each.delta is not None:
                _draw_delta(axes, each.delta)
        panels[0, 0].figure.supylabel("instructions", fontsize=9)
        panels[-1, 0].set_xlabel("MFD = teacher's score − student's score, points of the judge's scale")

    means = ", ".join(
        f"{round_name(each.number)} {number(_mean(rows['mfd']) if rows.height else None)}" for each, rows in shown
    )
    panels = {"nrows": len(shown), "sharex": True, "sharey": True, "squeeze": False}
    return Plot(
        "How hard the pool is",
        draw("Histogram of the MFD by round", 0.6 + 1.35 * len(shown), fill, **panels),
        f"Blue: the seeds. Mean MFD: {means}.",
    )


def plot_order_gap(rounds: Sequence[RoundSummary]) -> Plot | None:
    """Histogram of the order gap by round, with its mean: how far the order of the two answers moves the MFD."""
    judged = [(each, each.difficulty["order_gap"].drop_nulls()) for each in rounds if each.difficulty is not None]
    shown = _few([(each, gaps) for each, gaps in judged if len(gaps)])
    if not shown:
        return None
    edges = _edges(pl.concat([gaps for _, gaps in shown]))

    def fill(axes: Any) -> None:
        for (each, gaps), colour in zip(shown, COLOURS, strict=False):
            style = {"histtype": "step", "linewidth": 1.5, "color": colour}
            label = f"{round_name(each.number)}, mean {_mean(gaps):+.2f}"
            axes.hist(gaps.to_list(), bins=edges, weights=[100 / len(gaps)] * len(gaps), label=label, **style)
            axes.axvline(_mean(gaps), color=colour, linewidth=1, linestyle="--")
        axes.set(xlabel="order gap = MFD teacher first − MFD student first, points", ylabel="share of the scored, %")
        axes.legend(loc="upper right")

    beyond = percent(_mean(shown[-1][1].abs() > 2))
    return Plot(
        "What the order of the answers does",
        draw("Histogram of the order gap by round", 2.3, fill),
        "How much harder an instruction looks when the teacher's answer is shown first. A judge without position "
        f"bias centres on 0; beyond ±2 points lie {beyond} in the last round.",
    )


def plot_shares(rounds: Sequence[RoundSummary]) -> Plot | None:
    """Task shares: natural, target, and got by the mixtures of the rounds."""
    shown = _few([(each, each.mixture.shares) for each in rounds if each.mixture is not None])
    if not shown:
        return None
    used = {name for _, table in shown for name, *shares in table.rows() if any(shares)}
    names = [name for name in TASK_TYPES if name in used]

    def fill(axes: Any) -> None:
        tables = [table.filter(pl.col("task_type").is_in(names)) for _, table in shown]
        natural, target = (100 * tables[0][column] for column in ("natural", "target"))
        places = range(len(names))
        axes.scatter(natural, places, s=34, facecolors="none", edgecolors=GREY, linewidths=1.3, label="natural")
        axes.scatter(target, places, s=110, marker="|", color=COLOURS[3], linewidths=1.8, label="target")
        for offset, ((each, _), table) in enumerate(zip(shown, tables, strict=True)):
            heights = [place + 0.22 * (offset - (len(shown) - 1) / 2) for place in places]
            style = {"s": 16, "marker": _MARKERS[offset], "color": COLOURS[offset], "zorder": 3}
            axes.scatter(100 * table["got"], heights, label=f"got in {round_name(each.number)}", **style)
        name_rows(axes, names, lines=True)
        axes.set(xlim=(0, None), xlabel="share of the examples, %")

    return Plot(
        "Task shares",
        draw("Task shares: natural, target and got by round", 0.9 + 0.19 * len(names), fill, legend=4),
        "Natural: the pool as it came. Target: the configured shares. Got: the mixture of a round.",
    )


def plot_time(summary: RunSummary) -> Plot | None:
    """Time by stage, stacked for each part of the run; the shortest stages are one colour."""
    if not (took := stage_seconds(summary)):
        return None
    totals = sum(map(Counter, took.values()), Counter[str]())
    colours = {name: colour for (name, _), colour in zip(totals.most_common(), COLOURS, strict=False)}
    stages = {name: [name] for name in lines() if name in colours}
    if rest := [name for name in totals if name not in colours]:
        stages["other stages"] = rest
    unit, seconds = _unit(max(sum(of.values()) for of in took.values()))
    series = [
        (label, colours.get(label, GREY), [sum(of.get(name, 0.0) for name in names) / seconds for of in took.values()])
        for label, names in stages.items()
    ]

    def fill(axes: Any) -> None:
        stacked_bars(axes, [*took], series)
        axes.set_xlabel(f"time of all stages, {unit}")

    return Plot(
        "Time by stage",
        draw("Time by stage and round", 1.1 + 0.3 * len(took), fill, legend=4),
        "Answer and judge overlap, so do label and teach: bars can be longer than the clock showed.",
    )


def benchmark_plots(summary: RunSummary) -> list[Plot]:
    """The headlines of all benchmarks by round, then each of them by category; nothing where nobody was asked."""
    panels = headline_panels(summary)
    if not panels:
        return []
    radars = [(label, rows, choose_spokes(rows)) for label, rows in panels]
    said = " ".join(
        f"{label}, is not drawn by category. {spokes.in_words}"
        for label, _, spokes in radars
        if spokes.left_out and not spokes.drawn
    )
    beside = beside_in_words(pl.concat([rows for _, rows in panels]))
    told = ("Lines are 95 % intervals over questions. No decision reads these figures.", said, beside)
    curves = plot_benchmarks([(label, rows.filter(category=ALL)) for label, rows in panels])
    found = [Plot("Benchmarks", curves, " ".join(filter(None, told)))]
    for label, rows, spokes in radars:
        told = (f"{label}, by category; the further out, the better.", spokes.in_words, beside_in_words(rows))
        if spokes.drawn:
            found.append(Plot(label, plot_benchmark_categories(label, spokes), " ".join(filter(None, told))))
    return found


def plot_benchmarks(panels: Sequence[tuple[str, pl.DataFrame]]) -> Markup:
    """One panel a headline with 95 % intervals; each of ``panels`` is its label and rows (number, value, low, high)."""

    def fill(found: Any) -> None:
        for place, (axes, (label, rows)) in enumerate(zip(found[:, 0], panels, strict=True)):
            figures = [Estimate(value, 0, *ends) for value, *ends in rows.select("value", "low", "high").rows()]
            style = {"color": COLOURS[place % len(COLOURS)], "marker": "o"}
            points_with_intervals(axes, enumerate(figures), style)
            _name_students(axes, rows["number"].to_list())
            axes.set_title(label)
        found[-1, 0].set_xlabel("student")

    return draw("Benchmarks by round with intervals", 0.5 + 1.7 * len(panels), fill, nrows=len(panels), squeeze=False)


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
    for name in rows.filter(pl.col("category") != ALL)["category"].unique(maintain_order=True):
        of = {number: found.get((number, name), (None, "not asked")) for number in shown}
        if why := [
            f"{student_name(number)}: {note or 'no figure'}" for number, (value, note) in of.items() if value is None
        ]:
            left_out.setdefault(", ".join(why), []).append(name)
        else:
            values[name] = tuple(value for value, _ in of.values())
    return Spokes(tuple(shown), values, left_out)


def plot_benchmark_categories(label: str, spokes: Spokes) -> Markup:
    """A radar of one headline by category."""
    names = [*spokes.values]
    angles = [2 * math.pi * place / len(names) for place in range(len(names))]

    def fill(axes: Any) -> None:
        axes.set_theta_offset(math.pi / 2)
        axes.set_theta_direction(-1)
        for place, (student, colour) in enumerate(zip(spokes.students, (GREY, *COLOURS), strict=False)):
            found = [of[place] for of in spokes.values.values()]
            line = {"color": colour, "linewidth": 1.4, "marker": "o", "markersize": 3, "label": student_name(student)}
            axes.plot([*angles, angles[0]], [*found, found[0]], **line)
            axes.fill(angles, found, color=colour, alpha=0.08)
        axes.set(xticks=angles, xticklabels=names, ylim=(0, None))
        axes.set_title(label, pad=16)
        axes.figure.legend(loc="outside lower center", ncols=3)

    return draw(f"{label} by category", 3.9, fill, subplot_kw={"projection": "polar"})


def _name_students(axes: Any, rounds: Sequence[int]) -> None:
    axes.set(xticks=range(len(rounds)), xticklabels=[*map(student_name, rounds)], xlim=(-0.4, len(rounds) - 0.6))


def _draw_seeds(axes: Any, difficulty: pl.DataFrame, edges: list[float]) -> None:
    """Seeds in colour on top of the easy rest; everything is grey before the selection."""
    hard = pl.col("seed").fill_null(False)
    rest, seeds = (difficulty.filter(part)["mfd"].to_list() for part in (~hard, hard))
    axes.hist([rest, seeds], bins=edges, stacked=True, color=[GREY, COLOURS[0]], rwidth=0.9, label=["easy", "seeds"])


def _draw_delta(axes: Any, delta: float) -> None:
    axes.axvline(delta, color=COLOURS[3], linewidth=1.4, linestyle="--")
    beside = {"xycoords": ("data", "axes fraction"), "xytext": (4, -8), "textcoords": "offset points"}
    axes.annotate(f"δ = {delta:.2f}", (delta, 1), color=COLOURS[3], **beside)


def _edges(values: pl.Series) -> list[float]:
    """Bins of half a point over all values."""
    found = values.to_list() or [0.0]
    low, high = math.floor(min(found)), math.floor(max(found)) + 1
    return [low + step / 2 for step in range(2 * (high - low) + 1)]


def _mean(values: pl.Series) -> float:
    return float(sum(values.to_list())) / max(1, len(values))


def _few(rounds: list[tuple[RoundSummary, Any]]) -> list[tuple[RoundSummary, Any]]:
    return rounds if len(rounds) <= len(_MARKERS) else [rounds[0], *rounds[-2:]]


def _unit(longest_seconds: float) -> tuple[str, float]:
    """The unit in which the longest bar is easy to read, and its seconds."""
    if longest_seconds < 300:
        return "seconds", 1.0
    return ("minutes", 60.0) if longest_seconds < 3 * 3600 else ("hours", 3600.0)
