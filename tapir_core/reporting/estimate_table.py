"""The tables of an estimate: before the run by stage, after it beside what it really took; those of `tapir plan`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from statistics import fmean

from tapir_core.comparison import trial
from tapir_core.estimate.run import Estimate, Figures, Span, span_sum, sum_usd
from tapir_core.reporting.page import Table, table_of
from tapir_core.summary.formats import NOTHING, count, duration, number, percent
from tapir_core.summary.types import RunSummary, StageSummary, Usage

_MUCH = 0.1
"""Share of the run above which a trial is dear."""

_COLUMNS = ("Asks", "Answers", "To ask for", "Tokens in", "Tokens out", "USD", "Hours", "Steps")


def stage_table(estimate: Estimate) -> Table:
    """What each stage will take, over all rounds, with a total."""
    beside = [estimate.baseline] if estimate.baseline and estimate.with_baseline else []
    return Table(
        f"Estimate of {estimate.run} by stage",
        ("Stage", *_COLUMNS),
        tuple(map(_row, (*estimate.stages, *beside, estimate.charged, estimate.total))),
        text_columns=2,
        note="Likely (low–high). Answers are all that a stage needs; tokens, USD and hours are those of the answers to "
        "ask for, which the store does not give.",
    )


def objective_table(estimate: Estimate) -> Table:
    """What the run takes as it is configured, and with each other objective for its rounds."""
    others = [
        (
            each.objective,
            *((NOTHING, NOTHING) if each.lacks else (usd_cell(each.usd), hours_cell(each.hours))),
        )
        for each in estimate.others
    ]
    return Table(
        "By the objective of the rounds",
        ("Objective", "USD", "Hours"),
        (("as configured", *charged_cells(estimate)), *others) if others else (),
        text_columns=1,
        note=" ".join(
            ["What each is worth: docs/when-it-pays.md."]
            + [f"{each.objective}: {each.lacks}." for each in estimate.others if each.lacks]
        ),
    )


def sweep_table(found: Mapping[str, Estimate]) -> Table:
    """What the runs of a sweep take, by backbone, and all of them together."""
    rows = [(name, *charged_cells(each)) for name, each in found.items()]
    usd, hours = sum_usd(found), span_sum(each.total.hours for each in found.values())
    return Table(
        "Estimate of the sweep by backbone",
        ("Backbone", "USD", "Hours"),
        (*rows, ("all", usd_cell(usd), hours_cell(hours))),
        text_columns=1,
        note="Likely (low–high), of those too that are done. Labels and plain answers count in the first alone; the "
        "others find them in the store. A [budget] of the curriculum caps all of them together.",
    )


def methods_table(trials: Mapping[str, Estimate], whole: Mapping[str, Estimate], lacking: Mapping[str, str]) -> Table:
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


def charged_cells(estimate: Estimate) -> tuple[str, str]:
    """USD of teacher and judge, and hours of all."""
    return usd_cell(estimate.charged.paid.usd), hours_cell(estimate.total.hours)


def usd_cell(usd: Span | None) -> str:
    """USD, or that they are unknown."""
    return _cell(usd, number, lacking="unknown")


def hours_cell(span: Span | None) -> str:
    """Hours, or that they are unknown."""
    return _cell(span, _hours, lacking="unknown")


def instead_sentence(estimate: Estimate) -> str:
    """What else the curriculum's money buys: it must be worth more. Empty where it costs nothing."""
    if (other := estimate.instead) is None:
        return ""
    return (
        f"Instead of the curriculum (its verdicts, expansions and refined answers: USD {_cell(other.usd, number)}) the "
        f"same money buys {_cell(other.answers, count)} more plain answers of the teacher, "
        f"{other.answers.likely / estimate.pool_rows:.1f} times the pool: it pays where it is worth more than those."
    )


def comparison_table(estimate: Estimate | None, summary: RunSummary) -> Table:
    """What was expected of each stage, and what its stages took over all rounds of the run; no row without an estimate.

    Both sides count every answer, those from the store included, so that a run in several starts compares too.
    """
    return Table(
        "Estimate and actual",
        ("Stage", *(column for name in ("Answers", "Tokens", "USD", "Time") for column in (f"{name} expected", "got"))),
        tuple(
            _compared(each, [got for got in summary.all_stages if got.name == each.name])
            for each in (estimate.stages if estimate else ())
        ),
        note="Expected before the run: likely (low–high), with answers from the store counted as any other; got: "
        "up to now. Time is expected for the answers to ask for, and got at the last start of each stage.",
    )


def _row(each: Figures) -> tuple[str, ...]:
    paid, asked = each.paid, each.needed.calls.high > 0
    return (
        each.name,
        each.asks,
        _short(each.needed.calls.likely) if asked else NOTHING,
        _cell(paid.calls, _short, asked=asked),
        _short(paid.prompt_tokens.likely) if asked else NOTHING,
        _short(paid.completion_tokens.likely) if asked else NOTHING,
        _cell(paid.usd, number, asked=asked, lacking="unknown"),
        _cell(each.hours, _hours, lacking="unknown" if each.steps else NOTHING),
        _cell(each.steps, _short),
    )


def _compared(expected: Figures, got: list[StageSummary]) -> tuple[str, ...]:
    usage, needed, asks = sum((stage.usage for stage in got), Usage()), expected.needed, bool(expected.asks)
    tokens = zip(astuple(needed.prompt_tokens), astuple(needed.completion_tokens), strict=True)
    return (
        expected.name,
        _cell(needed.calls, _short, asked=asks),
        count(usage.calls + usage.stored if asks and got else None),
        _cell(Span(*map(sum, tokens)), _short, asked=asks),
        count(usage.prompt_tokens + usage.completion_tokens if asks and got else None),
        _cell(needed.usd, number, asked=asks, lacking="unknown"),
        number(usage.usd if asks and got else None),
        _cell(expected.hours, lambda hours: duration(3600 * hours)),
        duration(sum(stage.seconds for stage in got) if got else None),
    )


def _short(value: float) -> str:
    """9,999, 52.5k, 405k, 1.37M: an estimate is not known to the last digit."""
    if value < 10_000:
        return count(value)
    size, unit = (1e6, "M") if value >= 999_500 else (1e3, "k")
    return f"{value / size:,.{max(0, 3 - len(str(int(value / size))))}f}{unit}"


def _hours(value: float) -> str:
    return number(value, 1 if value >= 10 else 2)


def _cell(span: Span | None, in_words: Callable[[float], str], *, asked: bool = True, lacking: str = NOTHING) -> str:
    """Likely (low–high), or why there is no figure."""
    if span is None or not asked:
        return lacking if span is None else NOTHING
    low, likely, high = in_words(span.low), in_words(span.likely), in_words(span.high)
    return likely if low == high else f"{likely} ({low}–{high})"


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
