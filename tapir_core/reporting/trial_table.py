"""The tables of `tapir plan`: what each method will take, then what it gained by USD and by hours."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from tapir_core.comparison import trial
from tapir_core.estimate.run import Estimate, span_sum, sum_usd
from tapir_core.reporting.estimate_table import charged_cells, hours_cell, usd_cell
from tapir_core.reporting.page import Table, table_of
from tapir_core.summary.formats import NOTHING, number, percent


def estimate_table(trials: Mapping[str, Estimate], whole: Mapping[str, Estimate], lacking: Mapping[str, str]) -> Table:
    """What the trial of each method takes, and what the whole run would."""
    rows = [
        (name, trial.METHODS[name][0], *charged_cells(tried), *charged_cells(whole[name]))
        for name, tried in trials.items()
    ]
    usd, hours = sum_usd(trials), span_sum(each.total.hours for each in trials.values())
    left_out = [f"Left out: {name}: {why}." for name, why in lacking.items()]
    dear = [
        f"The trial costs {usd.likely / run.likely:.0%} of the run with {trial.MORE}."
        for run in [whole[trial.MORE].charged.paid.usd]
        if usd and run and usd.likely > _MUCH * run.likely > 0
    ]
    return Table(
        "Methods",
        ("Method", "Learns from", "Trial, USD", "Trial, hours", "Run, USD", "Run, hours"),
        (*rows, ("all", "", usd_cell(usd), hours_cell(hours), NOTHING, NOTHING)),
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


def gains_table(gains: Sequence[trial.Gain]) -> Table:
    """What each method gained over plain answers to two thirds of the prompts."""
    return table_of(
        "What a method gains",
        (
            ("Method", lambda each: each.tried.method),
            ("Right", lambda each: _right(each.tried.marks)),
            ("Points gained", lambda each: _points(each.points)),
            ("USD", lambda each: number(each.tried.usd)),
            ("A USD more", lambda each: _points(each.by(each.more_usd))),
            ("Hours", lambda each: number(each.tried.hours)),
            ("An hour more", lambda each: _points(each.by(each.more_hours))),
        ),
        gains,
        note="Points over plain answers to two thirds of the prompts, on the same held-out items, with 90 % intervals "
        "of items and reruns; a USD and an hour more than those took. USD are those of teacher and judge; hours are "
        "at work, of whatever machine did it.",
    )


def _right(marks: Mapping[str, float | None]) -> str:
    """Share of the marked items that are right."""
    known = [mark for mark in marks.values() if mark is not None]
    return percent(fmean(known) / 100) if known else NOTHING


def _points(span: trial.Span | None) -> str:
    """Points of percent with both ends."""
    if span is None:
        return NOTHING
    value, low, high = (100 * each for each in span)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
