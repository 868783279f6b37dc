"""The tables of `tapir plan`: what each method will take, then what it gained by USD and by hours."""

from collections.abc import Mapping, Sequence

from tapir_core.comparison.trial import METHODS, Gain
from tapir_core.estimate.run import Estimate, Span
from tapir_core.reporting.estimate_table import charged_cell, hours_cell, span_sum
from tapir_core.reporting.page import Table
from tapir_core.summary.formats import NOTHING, number, percent


def total_usd(trials: Mapping[str, Estimate]) -> Span | None:
    """Of all trials together, with what the store has of them; None where a price is unknown."""
    return span_sum(each.charged.needed.usd for each in trials.values())


def estimate_table(trials: Mapping[str, Estimate], whole: Mapping[str, Estimate], lacking: Mapping[str, str]) -> Table:
    """What the trial of each method takes, and what the whole run would."""
    rows = [
        (name, METHODS[name][0], *(cell(each) for each in (tried, whole[name]) for cell in (charged_cell, hours_cell)))
        for name, tried in trials.items()
    ]
    left_out = [f"Left out: {name}: {why}." for name, why in lacking.items()]
    return Table(
        "Methods",
        ("Method", "Learns from", "Trial, USD", "Trial, hours", "Run, USD", "Run, hours"),
        tuple(rows),
        text_columns=2,
        note=" ".join(
            ["Likely (low–high). Each trial is counted as if it stood alone; they share what is equal.", *left_out]
        ),
    )


def gains_table(gains: Sequence[Gain], whole: Mapping[str, Estimate]) -> Table:
    """What each method gained over plain answers to two thirds of the prompts."""
    rows = []
    for each in gains:
        name, points = each.tried.method, each.points
        span = None if points is None else (points.value, points.low90, points.high90)
        right = [mark for mark in each.tried.marks.values() if mark is not None]
        rows.append(
            (
                *(name, percent(sum(right) / len(right) / 100) if right else NOTHING, _points(span)),
                *(number(each.tried.usd), _points(each.by_usd), number(each.tried.hours), _points(each.by_hour)),
                *(charged_cell(whole[name]), hours_cell(whole[name])),
            )
        )
    return Table(
        "What a method gains",
        ("Method", "Right", "Points gained", "USD", "A USD more", "Hours", "An hour more", "Run, USD", "Run, hours"),
        tuple(rows),
        text_columns=1,
        note="Points over plain answers to two thirds of the prompts, on the same held-out items, with 90 % intervals "
        "of items and reruns; a USD and an hour more than those took. USD are those of teacher and judge; hours are "
        "at work, of whatever machine did it.",
    )


def _points(span: tuple[float, float, float] | None) -> str:
    """Points of percent with both ends."""
    if span is None:
        return NOTHING
    value, low, high = (100 * each for each in span)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
