"""The plots of a run: its students, its benchmarks, its trainings and its rounds, with notes that say how to read them.

Limits: a plot shows at most three rounds where more would not be told apart: the first and the last two. A line joins
figures of one judge, prompt and settings only; others have a panel of their own.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, product
from statistics import fmean
from typing import Any, TypeVar

import polars as pl
from markupsafe import Markup

from tapir_core import statistics, task_types
from tapir_core.config import ACCURACY, RETENTION
from tapir_core.curriculum import Habits
from tapir_core.evaluation.scores import ALL
from tapir_core.paths import AVERAGE
from tapir_core.reporting import page, sentences, tables
from tapir_core.reporting.benchmarks import beside_in_words, headline_panels
from tapir_core.stages import lines
from tapir_core.summary.formats import first_two_and_last, metric_name, number, percent, round_name, student_name
from tapir_core.summary.types import RoundSummary, RunSummary

_Item = TypeVar("_Item")

SHARES = {
    ACCURACY: "that were answered right",
    RETENTION: "on which the student's answer matches or beats the teacher's by the judge",
}
"""What a held-out score is the share of."""
_SPLITS = {"test": "o", "dev": "s"}
"""Split → its marker."""
_MARKERS = ("o", "s", "D")
_MOST_STEPS = 400
"""Points of one training's curve."""
_CURVES = {"loss": "loss", "learning_rate": "learning rate", "grad_norm": "gradient norm"}
"""What a trainer notes of each step → what its panel is called."""
_OWN_CURVES = {"preferred": "share of pairs gained", "gap": "teacher's lead, nats a token"}
"""The same of a training to prefer, and of one on-policy."""
_HABITS = {
    "tokens": {"length": "a whole answer"},
    "share, %": {"unended": "broken off", "repeated": "repeated words"},
    "nats a token": {"divergence": "from the teacher", "entropy": "entropy"},
}
"""Panel of how students write → what it shows, and what that is called."""
_UNITS = (("hours", 3600.0, 3 * 3600), ("minutes", 60.0, 300), ("seconds", 1.0, 0))
"""Unit, its seconds, and from which time on a bar is easier to read in it."""


def score_plots(summary: RunSummary) -> list[page.Section]:
    """The plots of held-out scores and of benchmarks, as far as somebody was asked."""
    return [
        each
        for each in (
            *plot_scores(summary),
            plot_score_by_task_type(summary),
            plot_headlines(summary),
            *plot_categories(summary),
        )
        if each
    ]


def plot_scores(summary: RunSummary) -> list[page.Section]:
    """What the run goes by; and accuracy, where a set with references stands beside a judged one."""
    data = summary.config.data
    beside = [ACCURACY] if data.judged and data.references else []
    return [plot_score(summary.students, metric) for metric in (summary.metric, *beside)]


def plot_score(students: Sequence[RoundSummary], metric: str) -> page.Section:
    """A held-out score of every student with 95 % intervals, dev and test."""
    name = metric_name(metric)
    series = []
    for offset, (split, marker) in enumerate(_SPLITS.items()):
        scores = [each.score(split, metric=metric) for each in students]
        points = [(place + 0.08 * (2 * offset - 1), score) for place, score in enumerate(scores)]
        if asked := [score for score in scores if score is not None and score.value is not None]:
            label = f"{split} ({asked[0].n + asked[0].failed} instructions)"
            for name_of, part in _apart(points, [each.number for each in students], label):
                series.append(page.Series(name_of, page.COLOURS[offset], marker, part))
    return page.Section(
        f"{name.capitalize()} by round",
        plot=page.draw_points(
            f"Held-out {name} by round with 95 % intervals",
            2.7,
            series,
            scale=100,
            legend_inside="upper left",
            xlabel="student",
            ylabel=f"{name}, %",
            ylim=(0, None),
            **_student_axis([each.number for each in students]),
        ),
        note=f"Share of held-out instructions {SHARES[metric]}. Bars are 95 % intervals. The test split "
        "is read by no decision; the dev split is, so its curve may flatter the best round.",
    )


def plot_score_by_task_type(summary: RunSummary) -> page.Section:
    """The score on each task type of the test split: backbone, S_0 and the last student."""
    shown, name = first_two_and_last(summary.by_round), metric_name(summary.metric)
    colours = (page.GREY, page.COLOURS[1], page.COLOURS[0])[-len(shown) :]
    series = [(student_name(each.number), of, each.by_task_type()) for each, of in zip(shown, colours, strict=False)]
    title = f"{name.capitalize()} by task type"
    return page.Section(
        title,
        plot=page.draw_categories(
            f"{title} on the test split", f"{name} on the test split, %", series, legend_columns=3
        ),
        note="Test split; lines are 95 % intervals.",
    )


def plot_training(trainings: Mapping[str, Mapping[str, Any]]) -> page.Section:
    """Loss, learning rate and gradient norm of each step of each training, one training after another.

    ``trainings`` are students with what ``training.json`` says; one without a curve is left out.
    """
    curves = {name: of["loss_curve"] for name, of in trainings.items() if of.get("loss_curve")}
    own = {each: label for each, label in _OWN_CURVES.items() if any(each in curve[0] for curve in curves.values())}
    shown_of = _CURVES | own

    def fill(panels: Any) -> None:
        begun = 0
        for place, (name, curve) in enumerate(curves.items()):
            shown = curve[:: math.ceil(len(curve) / _MOST_STEPS)]
            steps = [begun + entry["step"] for entry in shown]
            for axes, noted in zip(panels, shown_of, strict=True):
                axes.plot(
                    steps,
                    [entry.get(noted, math.nan) for entry in shown],
                    color=page.COLOURS[place % len(page.COLOURS)],
                    linewidth=1.2,
                    label=name if axes is panels[0] else None,
                )
            begun += curve[-1]["step"]
        for axes, (noted, label) in zip(panels, shown_of.items(), strict=True):
            axes.set(ylabel=label, **({} if noted == "gap" else {"ylim": (0, None)}))
        panels[-1].set_xlabel("steps of all trainings, one after another")

    return page.Section(
        "Training",
        plot=page.draw(
            "Loss, learning rate and gradient norm by step",
            1.5 * len(shown_of) + 0.1,
            fill,
            legend=6,
            nrows=len(shown_of),
            sharex=True,
        )
        if curves
        else None,
        note="Each training begins with a new optimizer and a course of the learning rate of its own. Loss: on the "
        "tokens of answers, of one batch a step; those of pairs and of own answers are others, and not to be compared. "
        "Of more than "
        f"{_MOST_STEPS} steps some are left out.",
    )


def plot_habits(summary: RunSummary) -> page.Section:
    """How the students write, one after another: answers to the dev split, and what each drew for the round after."""
    students = [each for each in summary.rounds if each.habits != Habits()]
    found = {
        unit: {name: [getattr(each.habits, figure) for each in students] for figure, name in shown.items()}
        for unit, shown in _HABITS.items()
    }
    panels = {
        unit: of for unit, of in found.items() if any(value is not None for line in of.values() for value in line)
    }

    def fill(axes_of: Any) -> None:
        for axes, (unit, lines_of) in zip(axes_of[:, 0], panels.items(), strict=True):
            for (name, values), colour, marker in zip(lines_of.items(), page.COLOURS, _MARKERS, strict=False):
                scaled = [math.nan if value is None else value * (100 if "%" in unit else 1) for value in values]
                axes.plot(scaled, color=colour, marker=marker, markersize=4, linewidth=1.2, label=name)
            axes.set(ylim=(0, None), ylabel=unit, **_student_axis([each.number for each in students]))
            axes.legend(loc="best")

    return page.Section(
        "How the students write",
        plot=page.draw("How the students write", 0.4 + 1.5 * len(panels), fill, nrows=len(panels), squeeze=False)
        if panels
        else None,
        note="Answers to the dev split; distance to the teacher (KL) and entropy by the tokens that a student drew for "
        "the round after it. A round of its own answers that makes them much longer, endless or alike has lost itself.",
    )


def plot_mfd(rounds: Sequence[RoundSummary]) -> page.Section:
    """MFD histogram of each judged round, one above the other on the same axis, with δ and the seeds in colour."""
    shown = [(each, each.difficulty) for each in rounds if each.difficulty is not None]
    edges = _edges([rows["mfd"] for _, rows in shown])

    def fill(panels: Any) -> None:
        for axes, (each, rows) in zip(panels[:, 0], shown, strict=True):
            hard = pl.col("seed").fill_null(False)
            parts = [rows.filter(part)["mfd"].to_list() for part in (~hard, hard)]
            axes.hist(parts, bins=edges, stacked=True, color=[page.GREY, page.COLOURS[0]], rwidth=0.9)
            seeds = f", {each.seeds} of {each.scored} are seeds" if each.seeds is not None else ""
            axes.set_title(f"{round_name(each.number)}: student {student_name(each.number - 1)}{seeds}")
            if each.delta is not None:
                axes.axvline(each.delta, color=page.COLOURS[3], linewidth=1.4, linestyle="--")
                axes.annotate(
                    f"δ = {each.delta:.2f}",
                    (each.delta, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(4, -8),
                    textcoords="offset points",
                    color=page.COLOURS[3],
                )
        panels[0, 0].figure.supylabel("instructions", fontsize=9)
        panels[-1, 0].set_xlabel("MFD = teacher's score − student's score, points of the judge's scale")

    means = {round_name(each.number): fmean(rows["mfd"]) if rows.height else None for each, rows in shown}
    return page.Section(
        "How hard the pool is",
        plot=page.draw(
            "Histogram of the MFD by round",
            0.6 + 1.35 * len(shown),
            fill,
            nrows=len(shown),
            sharex=True,
            sharey=True,
            squeeze=False,
        )
        if shown
        else None,
        note=f"Blue: the seeds. Mean MFD: {', '.join(f'{name} {number(mean)}' for name, mean in means.items())}.",
    )


def plot_order_gap(judged: Mapping[str, pl.Series]) -> page.Section:
    """Histogram of the order gap, with its mean: how far the order of the two answers moves the MFD.

    ``judged`` are order gaps by what they are of; those that are empty are left out.
    """
    shown = _few([(name, gaps.to_list()) for name, gaps in judged.items() if len(gaps)])
    edges = [edge - 0.25 for edge in _edges([gaps for _, gaps in shown])]

    def fill(axes: Any) -> None:
        axes.axvline(0, color=page.INK, linewidth=0.8)
        for (name, gaps), colour in zip(shown, page.COLOURS, strict=False):
            mean = statistics.estimate_mean(gaps)
            axes.hist(
                gaps,
                bins=edges,
                weights=[100 / len(gaps)] * len(gaps),
                histtype="step",
                linewidth=1.5,
                color=colour,
                label=f"{name}, mean {mean.value:+.2f}",
            )
            axes.axvline(mean.value, color=colour, linewidth=1, linestyle="--")
            if mean.low is not None and mean.high is not None:
                axes.axvspan(mean.low, mean.high, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="order gap = MFD teacher first − MFD student first, points", ylabel="share of the scored, %")
        axes.legend(loc="upper right")

    beyond = [f"{percent(fmean(abs(gap) > 2 for gap in gaps))} of {name}" for name, gaps in shown]
    return page.Section(
        "What the order of the answers does",
        plot=page.draw("Histogram of the order gap", 2.5, fill) if shown else None,
        note="How much harder an instruction looks when the teacher's answer is shown first. A judge without position "
        "bias centres on 0. Dashed: the mean; the band around it is its 95 % interval. Beyond ±2 points lie "
        f"{', '.join(beyond)}.",
    )


def plot_shares(rounds: Sequence[RoundSummary]) -> page.Section:
    """Task shares: natural, target, and got by the mixtures of the rounds."""
    shown = _few([(each, each.mixture.shares) for each in rounds if each.mixture is not None])
    names = task_types.in_order({name for _, table in shown for name, *shares in table.rows() if any(shares)})

    def fill(axes: Any) -> None:
        shares = [table.filter(pl.col("task_type").is_in(names)) for _, table in shown]
        natural, target = (100 * shares[0][column] for column in ("natural", "target"))
        places = range(len(names))
        axes.scatter(natural, places, s=34, facecolors="none", edgecolors=page.GREY, linewidths=1.3, label="natural")
        axes.scatter(target, places, s=110, marker="|", color=page.COLOURS[3], linewidths=1.8, label="target")
        for offset, ((each, _), table) in enumerate(zip(shown, shares, strict=True)):
            axes.scatter(
                100 * table["got"],
                [place + 0.22 * (offset - (len(shown) - 1) / 2) for place in places],
                s=16,
                marker=_MARKERS[offset],
                color=page.COLOURS[offset],
                zorder=3,
                label=f"got in {round_name(each.number)}",
            )
        page.name_rows(axes, names, lines=True)
        axes.set(xlim=(0, None), xlabel="share of the examples, %")

    return page.Section(
        "Task shares",
        plot=page.draw("Task shares by round", 0.9 + 0.19 * len(names), fill, legend=4) if shown else None,
        note="Natural: the pool as it came. Target: the configured shares. Got: the mixture of a round.",
    )


def plot_time(summary: RunSummary) -> page.Section:
    """Time by stage, stacked for each part of the run; the shortest stages are one colour."""
    took = tables.stage_seconds(summary)
    totals = sum(map(Counter, took.values()), Counter[str]())
    colours = {name: colour for (name, _), colour in zip(totals.most_common(), page.COLOURS, strict=False)}
    stages = {name: [name] for name in lines() if name in colours}
    if rest := [name for name in totals if name not in colours]:
        stages["other stages"] = rest
    longest = max((sum(of.values()) for of in took.values()), default=0.0)
    unit, seconds = next((name, size) for name, size, least in _UNITS if longest >= least)
    series = [
        (
            label,
            colours.get(label, page.GREY),
            [sum(of.get(name, 0.0) for name in names) / seconds for of in took.values()],
        )
        for label, names in stages.items()
    ]
    return page.Section(
        "Time by stage",
        plot=page.draw_stacked("Time by stage and round", [*took], series, f"time of all stages, {unit}", legend=4)
        if took
        else None,
        note="Answer and judge overlap, so do label and teach: bars can be longer than the clock showed.",
    )


def plot_headlines(summary: RunSummary) -> page.Section | None:
    """The headlines of all benchmarks by round; nothing where nobody was asked."""
    panels = headline_panels(summary)
    if not panels:
        return None
    return page.Section(
        "Benchmarks",
        plot=plot_benchmarks([(label, rows.filter(category=ALL)) for label, rows in panels]),
        note="Lines are 95 % intervals over questions. No decision reads these figures. "
        f"{beside_in_words(pl.concat([rows for _, rows in panels]))}",
    )


def plot_categories(summary: RunSummary) -> list[page.Section]:
    """Each headline of the benchmarks by category, with intervals: of the first two students and the last one asked."""
    sections = []
    for label, rows in headline_panels(summary):
        of = rows.filter((pl.col("category") != ALL) & (pl.col("number") != AVERAGE))
        shown = first_two_and_last(of["number"].unique(maintain_order=True).to_list())
        figures = {student: of.filter(number=student).select("category", "value", "low", "high") for student in shown}
        series = [
            (student_name(student), colour, {name: statistics.Estimate(*found) for name, *found in rows.iter_rows()})
            for (student, rows), colour in zip(figures.items(), (page.GREY, *page.COLOURS), strict=False)
        ]
        known = {each[:2]: each[2:] for each in of.select("number", "category", "value", "note").rows()}
        asked = (
            (student, name, *known.get((student, name), (None, "not asked")))
            for student, name in product(shown, of["category"].unique(maintain_order=True))
        )
        lacking = statistics.grouped(
            (f"{student_name(student)}: {why or 'no figure'}", name)
            for student, name, value, why in asked
            if value is None
        )
        told = "; ".join(f"{', '.join(names)} ({why})" for why, names in lacking.items())
        title = f"{label} by category"
        sections.append(
            page.Section(
                title,
                plot=page.draw_categories(title, label, series, legend_columns=3, scale=1, most=None),
                note=sentences.together((f"Without a figure: {told}." if told else "", beside_in_words(rows))),
            )
        )
    return sections


def plot_benchmarks(panels: Sequence[tuple[str, pl.DataFrame]]) -> Markup:
    """One panel a headline with 95 % intervals; each of ``panels`` is its label and rows (number, value, low, high)."""

    def fill(found: Any) -> None:
        for place, (axes, (label, rows)) in enumerate(zip(found[:, 0], panels, strict=True)):
            figures = [statistics.Estimate(*figure) for figure in rows.select("value", "low", "high").rows()]
            for _, points in _apart([*enumerate(figures)], rows["number"].to_list()):
                page.points_with_intervals(axes, points, color=page.COLOURS[place % len(page.COLOURS)], marker="o")
            axes.set(title=label, **_student_axis(rows["number"].to_list()))
        found[-1, 0].set_xlabel("student")

    return page.draw(
        "Benchmarks by round with intervals", 0.5 + 1.7 * len(panels), fill, nrows=len(panels), squeeze=False
    )


def _apart(points: Sequence[_Item], students: Sequence[int], label: str = "") -> list[tuple[str, Sequence[_Item]]]:
    """The points of rounds, which a line joins, under their label, and that of their average, which stands alone."""
    joined = sum(number != AVERAGE for number in students)
    # Labels that begin so stand in no legend.
    return [(label, points[:joined]), (f"_{label}", points[joined:])]


def _student_axis(rounds: Sequence[int]) -> dict[str, Any]:
    """Settings of axes whose places are students."""
    return {
        "xticks": range(len(rounds)),
        "xticklabels": [*map(student_name, rounds)],
        "xlim": (-0.4, len(rounds) - 0.6),
    }


def _edges(values: Sequence[Iterable[float]]) -> list[float]:
    """Bins of half a point over all values."""
    found = [*chain.from_iterable(values)] or [0.0]
    low, high = math.floor(min(found)), math.floor(max(found)) + 1
    return [low + step / 2 for step in range(2 * (high - low) + 2)]


def _few(rounds: list[_Item]) -> list[_Item]:
    return rounds if len(rounds) <= len(_MARKERS) else [rounds[0], *rounds[-2:]]
