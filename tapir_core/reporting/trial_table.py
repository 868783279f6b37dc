"""The tables of `tapir plan`: what each method will take, then what it gained by USD and by hours."""

from collections.abc import Mapping, Sequence

from tapir_core.comparison.trial import METHODS, MORE, Gain
from tapir_core.comparison.trial import Span as TrialSpan
from tapir_core.estimate.run import Estimate, span_sum, sum_usd
from tapir_core.reporting.estimate_table import charged_cell, hours_cell, span_hours_cell, usd_cell
from tapir_core.reporting.page import Table
from tapir_core.summary.formats import NOTHING, number, percent


def estimate_table(trials: Mapping[str, Estimate], whole: Mapping[str, Estimate], lacking: Mapping[str, str]) -> Table:
    """What the trial of each method takes, and what the whole run would."""
    rows = [
        (name, METHODS[name][0], *(cell(each) for each in (tried, whole[name]) for cell in (charged_cell, hours_cell)))
        for name, tried in trials.items()
    ]
    usd, hours = sum_usd(trials), span_sum(each.total.hours for each in trials.values())
    left_out = [f"Left out: {name}: {why}." for name, why in lacking.items()]
    dear = [
        f"The trial costs {usd.likely / run.likely:.0%} of the run with {MORE}."
        for run in [whole[MORE].charged.paid.usd]
        if usd and run and usd.likely > _MUCH * run.likely > 0
    ]
    return Table(
        "Methods",
        ("Method", "Learns from", "Trial, USD", "Trial, hours", "Run, USD", "Run, hours"),
        (*rows, ("all", "", usd_cell(usd), span_hours_cell(hours), NOTHING, NOTHING)),
        text_columns=2,
        note=" ".join(
            [
                "Likely (low–high). A trial is counted as if it stood alone; they share what is equal. The upper end "
                "of all is the cap, unless budget.usd says another.",
                *(*dear, *left_out),
            ]
        ),
    )


_MUCH = 0.1
"""Share of the run above which a trial is dear."""


def gains_table(gains: Sequence[Gain]) -> Table:
    """What each method gained over plain answers to two thirds of the prompts."""
    rows = []
    for each in gains:
        name = each.tried.method
        right = [mark for mark in each.tried.marks.values() if mark is not None]
        share = percent(sum(right) / len(right) / 100) if right else NOTHING
        usd = number(each.tried.usd), _points(each.by(each.more_usd))
        hours = number(each.tried.hours), _points(each.by(each.more_hours))
        rows.append((name, share, _points(each.points), *usd, *hours))
    return Table(
        "What a method gains",
        ("Method", "Right", "Points gained", "USD", "A USD more", "Hours", "An hour more"),
        tuple(rows),
        text_columns=1,
        note="Points over plain answers to two thirds of the prompts, on the same held-out items, with 90 % intervals "
        "of items and reruns; a USD and an hour more than those took. USD are those of teacher and judge; hours are "
        "at work, of whatever machine did it.",
    )


def _points(span: TrialSpan | None) -> str:
    """Points of percent with both ends."""
    if span is None:
        return NOTHING
    value, low, high = (100 * each for each in span)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
