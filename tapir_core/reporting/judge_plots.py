"""The plots of the judge report, each a function from its data to an inline SVG.

Limits: what a plot shows is binned, so its size does not grow with the pool. Reasons are cut to the characters that
every font has.
"""

import math
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import polars as pl

from tapir_core.judging.estimates import Estimate, estimate_mean
from tapir_core.reporting.figure import COLOURS, GREY, INK, draw

__all__ = ["plot_gap", "plot_length", "plot_orders", "plot_unscored"]

_BLUE, _ORANGE, _, _RED = COLOURS[:4]
_BINS = 10
_REASONS = 8
_REASON_CHARS = 48
_AREA = 220.0


def plot_gap(pairs: pl.DataFrame, gap: Estimate) -> str:
    """Histogram of the order gap in half points, with its mean and the mean's interval."""
    values = pairs["order_gap"].to_list()
    low, high = math.floor(2 * min(values)), math.ceil(2 * max(values))
    edges = [(2 * step - 1) / 4 for step in range(low, high + 2)]

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        axes.hist(values, bins=edges, color=_BLUE, rwidth=0.9)
        axes.axvline(0, color=INK, linewidth=0.8)
        if gap.low is not None and gap.high is not None:
            axes.axvspan(gap.low, gap.high, color=_RED, alpha=0.25, linewidth=0)
        axes.axvline(gap.value, color=_RED, linewidth=1.4, linestyle="--", label=f"mean {gap.value:+.2f}")
        axes.set_xlabel("order gap = MFD teacher first − MFD student first, points")
        axes.set_ylabel("instructions")
        axes.legend(loc="upper right")

    return draw("Histogram of the order gap", 2.3, fill)


def plot_orders(pairs: pl.DataFrame) -> str:
    """MFD in one order against the other; a dot's area is the number of instructions on its half point."""
    one, other = ([round(2 * mfd) / 2 for mfd in pairs[order]] for order in ("student_first", "teacher_first"))
    dots = Counter(zip(one, other, strict=True))
    most = max(dots.values())
    ends = [min(*one, *other) - 0.5, max(*one, *other) + 0.5]

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(ends, ends, color=GREY, linewidth=1, linestyle="--")
        sizes = [max(2.0, _AREA * count / most) for count in dots.values()]
        across, up = zip(*dots, strict=True)
        axes.scatter(across, up, s=sizes, color=_BLUE, alpha=0.65, linewidths=0)
        axes.set_xlim(ends)
        axes.set_ylim(ends)
        axes.set_aspect("equal")
        axes.set_xlabel("MFD, student's answer first, points")
        axes.set_ylabel("MFD, teacher's answer first, points")

    return draw("MFD in one order against the other", 3.9, fill)


def plot_length(scores: pl.DataFrame) -> str:
    """Mean score of student and teacher by length of the answer, in ten equal groups, with 95 % intervals."""

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for who, colour, marker in (("student", _ORANGE, "o"), ("teacher", _BLUE, "s")):
            chars, means = _by_length(scores, who)
            values = [each.value for each in means]
            errors = [0.0 if each.high is None or each.value is None else each.high - each.value for each in means]
            axes.errorbar(
                chars,
                values,
                yerr=errors,
                color=colour,
                marker=marker,
                markersize=4.5,
                capsize=2.5,
                linewidth=1.3,
                label=f"{who}'s answer",
            )
        axes.set_ylim(0.5, 10.5)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("mean length of the answers of a group, characters")
        axes.set_ylabel("mean score, points")
        axes.legend(loc="lower right")

    return draw("Score by length of the answer", 2.6, fill)


def plot_unscored(reasons: Mapping[str, int]) -> str:
    """Unscored verdicts by reason; the rarest reasons are one bar."""
    shown = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    bars = [(_plain(reason), count) for reason, count in shown[:_REASONS]]
    rest = sum(count for _, count in shown[_REASONS:])
    bars += [("other reasons", rest)] if rest else []
    places = range(len(bars))

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        axes.barh(places, [count for _, count in bars], 0.6, color=_BLUE)
        axes.set_yticks(list(places), [reason for reason, _ in bars])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("unscored verdicts")

    return draw("Unscored verdicts by reason", 0.7 + 0.28 * len(bars), fill)


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
    known = "".join(
        letter if letter.isprintable() and ord(letter) < 0x250 else "?" for letter in " ".join(reason.split())
    )
    return known if len(known) <= _REASON_CHARS else f"{known[: _REASON_CHARS - 1]}…"
