"""The judge report: how far the judge of a round can be trusted, as tables and on one page that needs nothing else.

The page is made from the run folder alone, so it can be made again at any time. How to read it: docs/judge.md. What a
plot shows is binned, so its size does not grow with the pool.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import polars as pl

from tapir_core.judging.estimates import WINNERS, Estimate, estimate_mean
from tapir_core.paths import judge_report_file
from tapir_core.reporting.figure import COLOURS, GREY, INK, Plot, draw, points_with_intervals, stacked_bars
from tapir_core.reporting.judge_round import JudgeRound, Measures
from tapir_core.reporting.page import Section, render_page
from tapir_core.reporting.tables import Table
from tapir_core.run_folder import RunFolder
from tapir_core.summary.formats import NOTHING, correlation, count, number, percent, points, round_name
from tapir_core.text import shorten

__all__ = [
    "judge_tables",
    "plot_gap",
    "plot_length",
    "plot_orders",
    "plot_unscored",
    "render_judge_report",
    "write_judge_report",
]

_BINS = 10
_REASONS = 8
_REASON_CHARS = 48
_AREA = 220.0

_Cell = Callable[[float], str]


def write_judge_report(run: RunFolder, found: JudgeRound) -> str:
    """Write the judge report of a round into the run folder and say where it is."""
    file = judge_report_file(found.number)
    run.storage.write_bytes(file, render_judge_report(found).encode())
    return f"{run.ref.root}/{run.ref.name}/{file}"


def render_judge_report(found: JudgeRound) -> str:
    """The page. Everything that is text is escaped."""
    tables, whole = judge_tables(found), found.whole
    gap = plot_gap(whole.pairs, whole.agreement.gap) if whole.agreement is not None else None
    orders = [gap, plot_orders(whole.pairs), tables["judge-winners"]]
    task_types = Section("By task type", [tables["judge-task-types"]])
    unscored = [plot_unscored(whole.unscored.reasons), tables["judge-unscored"], task_types]
    sections = [
        Section("", [tables["judge"]]),
        Section("What the order of the answers does", orders if gap is not None else []),
        Section("Between the judges", [tables["judge-panel"], tables["judge-single"]]),
        Section("What the length of an answer does", [plot_length(whole.scores)]),
        Section("What was left unscored", unscored if whole.unscored.reasons else []),
    ]
    return render_page("judge_report.html.jinja2", sections, found=found)


def judge_tables(found: JudgeRound) -> dict[str, Table]:
    """Artifact name → table; a table without rows has nothing to show."""
    return {
        "judge": _measures(found),
        "judge-single": _single(found),
        "judge-winners": _winners(found),
        "judge-unscored": _reasons(found),
        "judge-task-types": _task_types(found),
        "judge-panel": _panel(found),
    }


def _measures(found: JudgeRound) -> Table:
    rows = tuple(
        (name, _value(each, cell), _interval(each, cell), _stderr(each, cell), count(each.n))
        for name, each, cell in _estimates(found.whole)
    )
    note = "n counts instructions; of the unscored verdicts, verdicts. A correlation has no standard error of its own."
    columns = ("Measure", "Value", "95 % interval", "Standard error", "n")
    name = round_name(found.number)
    title = f"The judges of {name}, combined" if found.single else f"The judge of {name}"
    return Table(title, columns, rows, note=note)


def _single(found: JudgeRound) -> Table:
    """A row for each judge and measure."""
    rows = tuple(
        (judge, name, _value(each, cell), _interval(each, cell), count(each.n))
        for judge, measures in found.single.items()
        for name, each, cell in _estimates(measures)
    )
    columns = ("Judge", "Measure", "Value", "95 % interval", "n")
    return Table(f"Each judge alone, {round_name(found.number)}", columns, rows, text_columns=2)


def _estimates(measures: Measures) -> list[tuple[str, Estimate, _Cell]]:
    """What is measured of a judge: name, figure, and how a cell shows it."""
    rows: list[tuple[str, Estimate, _Cell]] = []
    if measures.agreement is not None:
        between = measures.agreement
        rows += [
            ("Order gap, points", between.gap, points),
            ("Same winner in both orders", between.same_winner, percent),
            ("Winner in both orders, Cohen's κ", between.kappa, correlation),
            ("MFD in both orders, Spearman's ρ", between.spearman, correlation),
        ]
    return [
        *rows,
        ("Student's score and length, Spearman's ρ", measures.length.student, correlation),
        ("Teacher's score and length, Spearman's ρ", measures.length.teacher, correlation),
        ("MFD and length difference, Spearman's ρ", measures.length.difference, correlation),
        ("Unscored verdicts", measures.unscored.share, percent),
    ]


def _winners(found: JudgeRound) -> Table:
    agreement = found.whole.agreement
    winners = agreement.winners if agreement is not None and agreement.gap.n else None
    rows = [(first, *(count(winners[first, second]) for second in WINNERS)) for first in WINNERS] if winners else []
    columns = ("Teacher shown first ↓, student first →", *WINNERS)
    note = "Instructions; on the diagonal both orders agree." if winners else ""
    return Table(f"Winners in the two orders, {round_name(found.number)}", columns, tuple(rows), note=note)


def _reasons(found: JudgeRound) -> Table:
    reasons = found.whole.unscored.reasons
    rows = tuple((reason, count(rows), percent(rows / found.verdicts)) for reason, rows in reasons.items())
    title = f"Unscored verdicts by reason, {round_name(found.number)}"
    return Table(title, ("Reason", "Verdicts", "Share of all"), rows)


def _task_types(found: JudgeRound) -> Table:
    shares = found.whole.unscored.task_types
    rows = tuple((name, count(each.n), percent(each.value), _interval(each, percent)) for name, each in shares.items())
    title = f"Unscored verdicts by task type, {round_name(found.number)}"
    return Table(title, ("Task type", "Verdicts", "Unscored", "95 % interval"), rows)


def _panel(found: JudgeRound) -> Table:
    rows = []
    for pair in found.panel:
        cells = ((pair.same_winner, percent), (pair.kappa, correlation), (pair.spearman, correlation))
        told = (text for each, cell in cells for text in (_value(each, cell), _interval(each, cell)))
        rows.append((pair.first, pair.second, *told, count(pair.same_winner.n)))
    measures = ("Same winner", "Winner, Cohen's κ", "MFD, Spearman's ρ")
    columns = ("Judge", "Other judge", *(name for each in measures for name in (each, "95 % interval")), "n")
    return Table(f"Agreement between judges, {round_name(found.number)}", columns, tuple(rows), text_columns=2)


def _value(estimate: Estimate, cell: _Cell) -> str:
    return f"not defined: {estimate.why}" if estimate.value is None else cell(estimate.value)


def _interval(estimate: Estimate, cell: _Cell) -> str:
    if estimate.value is None:
        return NOTHING
    if estimate.low is None or estimate.high is None:
        return f"none: {estimate.why}"
    return f"{cell(estimate.low)} to {cell(estimate.high)}"


def _stderr(estimate: Estimate, cell: _Cell) -> str:
    """A standard error has no sign."""
    return percent(estimate.stderr) if cell is percent else number(estimate.stderr)


def plot_gap(pairs: pl.DataFrame, gap: Estimate) -> Plot | None:
    """Histogram of the order gap in half points, with its mean and the mean's interval."""
    if not pairs.height:
        return None
    values = pairs["order_gap"].to_list()
    low, high = math.floor(2 * min(values)), math.ceil(2 * max(values))
    edges = [(2 * step - 1) / 4 for step in range(low, high + 2)]

    def fill(axes: Any) -> None:
        axes.hist(values, bins=edges, color=COLOURS[0], rwidth=0.9)
        axes.axvline(0, color=INK, linewidth=0.8)
        if gap.low is not None and gap.high is not None:
            axes.axvspan(gap.low, gap.high, color=COLOURS[3], alpha=0.25, linewidth=0)
        axes.axvline(gap.value, color=COLOURS[3], linewidth=1.4, linestyle="--", label=f"mean {gap.value:+.2f}")
        axes.set(xlabel="order gap = MFD teacher first − MFD student first, points", ylabel="instructions")
        axes.legend(loc="upper right")

    return Plot(
        "Order gap",
        draw("Histogram of the order gap", 2.3, fill),
        "One instruction counts once. Right of 0 the teacher's answer gains by being shown first. Dashed: the mean; "
        "the band around it is its 95 % interval.",
    )


def plot_orders(pairs: pl.DataFrame) -> Plot | None:
    """MFD in one order against the other; a dot's area is the number of instructions on its half point."""
    if not pairs.height:
        return None
    one, other = ([round(2 * mfd) / 2 for mfd in pairs[order]] for order in ("student_first", "teacher_first"))
    dots = Counter(zip(one, other, strict=True))
    most = max(dots.values())
    ends = [min(*one, *other) - 0.5, max(*one, *other) + 0.5]

    def fill(axes: Any) -> None:
        axes.plot(ends, ends, color=GREY, linewidth=1, linestyle="--")
        sizes = [max(2.0, _AREA * count / most) for count in dots.values()]
        axes.scatter(*zip(*dots, strict=True), s=sizes, color=COLOURS[0], alpha=0.65, linewidths=0)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        axes.set(xlabel="MFD, student's answer first, points", ylabel="MFD, teacher's answer first, points")

    return Plot(
        "One order against the other",
        draw("MFD in one order against the other", 3.9, fill),
        "A dot's area is the number of instructions there. On the dashed line both orders give the same MFD; a judge "
        "that favours the first answer lies above it.",
    )


def plot_length(scores: pl.DataFrame) -> Plot | None:
    """Mean score of student and teacher by length of the answer, in ten equal groups, with 95 % intervals."""
    if not scores.height:
        return None

    def fill(axes: Any) -> None:
        for who, colour, marker in (("student", COLOURS[1], "o"), ("teacher", COLOURS[0], "s")):
            chars, means = _by_length(scores, who)
            style = {"color": colour, "marker": marker, "label": f"{who}'s answer"}
            points_with_intervals(axes, zip(chars, means, strict=True), style)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set(xlim=(0, None), xlabel="mean length of the answers of a group, characters")
        axes.set(ylim=(0.5, 10.5), ylabel="mean score, points")
        axes.legend(loc="lower right")

    return Plot(
        "Score and length",
        draw("Score by length of the answer", 2.6, fill),
        "Answers in ten groups of equal size, from short to long. Bars are 95 % intervals of the mean.",
    )


def plot_unscored(reasons: Mapping[str, int]) -> Plot | None:
    """Unscored verdicts by reason; the rarest reasons are one bar."""
    if not reasons:
        return None
    shown = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    bars = [(_plain(reason), count) for reason, count in shown[:_REASONS]]
    rest = sum(count for _, count in shown[_REASONS:])
    bars += [("other reasons", rest)] if rest else []

    def fill(axes: Any) -> None:
        stacked_bars(axes, [reason for reason, _ in bars], [("", COLOURS[0], [count for _, count in bars])])
        axes.set_xlabel("unscored verdicts")

    return Plot(
        "Unscored",
        draw("Unscored verdicts by reason", 0.7 + 0.28 * len(bars), fill),
        "An unscored verdict is in no mean; its instruction is in neither seeds nor easy.",
    )


def _by_length(scores: pl.DataFrame, who: str) -> tuple[list[float], list[Estimate]]:
    """Mean length and mean score of up to ten groups of equal size, from the shortest answers to the longest."""
    rows = scores.sort(f"{who}_chars", "instruction_id")
    groups = min(_BINS, rows.height)
    cuts = [rows.height * step // groups for step in range(groups + 1)]
    parts = [rows.slice(start, stop - start) for start, stop in pairwise(cuts)]
    chars = [sum(part[f"{who}_chars"].to_list()) / part.height for part in parts]
    return chars, [estimate_mean(part[f"{who}_score"].to_list()) for part in parts]


def _plain(reason: str) -> str:
    """A reason that any font can write: Latin letters only, on one short line."""
    line = " ".join(reason.split())
    return shorten("".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in line), _REASON_CHARS)
