"""The judge report of a round in tables, and in sentences that say what they mean."""

from collections.abc import Callable

from tapir_core.judging import POINTWISE
from tapir_core.judging.agreement import WINNERS, favoured_position
from tapir_core.judging.estimates import Estimate
from tapir_core.reporting.judge_round import JudgeRound, Measures
from tapir_core.reporting.tables import Table
from tapir_core.summary.formats import NOTHING, count, number, percent, round_name

__all__ = [
    "agreement_sentence",
    "correlation",
    "judge_tables",
    "length_sentence",
    "points",
    "position_sentence",
    "tell",
    "unscored_sentence",
]

_Cell = Callable[[float], str]


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
    title = f"The judges of {round_name(found.number)}, combined" if found.single else None
    return Table(title or f"The judge of {round_name(found.number)}", columns, rows, note=note)


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
    columns = ("Teacher shown first ↓, student first →", *WINNERS)
    title = f"Winners in the two orders, {round_name(found.number)}"
    if found.whole.agreement is None or not found.whole.agreement.gap.n:
        return Table(title, columns, ())
    winners = found.whole.agreement.winners
    rows = tuple((first, *(count(winners[first, second]) for second in WINNERS)) for first in WINNERS)
    return Table(title, columns, rows, note="Instructions; on the diagonal both orders agree.")


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
        names = (pair.first, pair.second)
        cells = ((pair.same_winner, percent), (pair.kappa, correlation), (pair.spearman, correlation))
        told = (text for each, cell in cells for text in (_value(each, cell), _interval(each, cell)))
        rows.append((*names, *told, count(pair.same_winner.n)))
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
    if estimate.stderr is None:
        return NOTHING
    return percent(estimate.stderr) if cell is percent else number(estimate.stderr)


_STRENGTHS = ((0.4, "weak"), (0.6, "moderate"), (0.8, "good"))
"""Kappa below → what it is called; above the last it is very good."""


def points(value: float) -> str:
    """+0.50, in points of the judge's scale; never -0.00."""
    return f"{round(value, 2) + 0.0:+.2f}"


def correlation(value: float) -> str:
    """0.42, a number from -1 to 1."""
    return f"{round(value, 2) + 0.0:.2f}"


def tell(estimate: Estimate, cell: Callable[[float], str]) -> str:
    """The value with its interval, or why there is none."""
    if estimate.value is None:
        return f"not defined ({estimate.why})"
    if estimate.low is None or estimate.high is None:
        return f"{cell(estimate.value)} (no interval: {estimate.why})"
    return f"{cell(estimate.value)} (95 % interval {cell(estimate.low)} to {cell(estimate.high)})"


def position_sentence(found: JudgeRound) -> str:
    """Whether the judge favours a position."""
    if found.whole.agreement is None:
        asked = found.orders[0].replace("_", " ")
        seen = "one answer a call" if asked == POINTWISE else f"every pair in one order only, {asked}"
        tail = "there is no position to favour" if asked == POINTWISE else "a favoured position cannot be told"
        return f"The judge saw {seen}, so {tail}."
    gap = found.whole.agreement.gap
    told = f"order gap {tell(gap, points)}"
    favoured = favoured_position(gap)
    if favoured is None or gap.value is None:
        return f"Whether the judge favours a position cannot be told: {told}."
    if favoured == "neither":
        return f"No favoured position can be told from {count(gap.n)} instructions: {told}."
    return (
        f"The judge favours the answer shown {favoured}, by {abs(gap.value) / 2:.2f} points a verdict: {told}. "
        f"The MFD is the mean of both orders, in which this cancels."
    )


def agreement_sentence(found: JudgeRound) -> str:
    """How well the two orders agree; empty when one order only was asked."""
    if found.whole.agreement is None:
        return ""
    share, kappa = found.whole.agreement.same_winner, found.whole.agreement.kappa
    if share.value is None:
        return "No instruction is scored in both orders, so their agreement is not defined."
    told = (
        f"Both orders name the same winner for {percent(share.value)} of {count(share.n)} instructions; Cohen's κ is "
    )
    if kappa.value is None:
        return f"{told}{tell(kappa, correlation)}."
    strength = next((name for below, name in _STRENGTHS if kappa.value < below), "very good")
    return f"{told}{tell(kappa, correlation)}: {strength} agreement beyond chance."


def length_sentence(found: JudgeRound) -> str:
    """Whether longer answers get higher scores."""
    effect = found.whole.length.difference
    told = f"rank correlation of MFD and length difference {tell(effect, correlation)}"
    if effect.low is None or effect.high is None:
        return f"Whether scores go with length cannot be told: {told}."
    if effect.low <= 0 <= effect.high:
        return f"No link between score and length can be told: {told}."
    which = "longer" if effect.low > 0 else "shorter"
    return f"Of two answers the {which} one tends to score higher: {told}. It may also be the better one."


def unscored_sentence(found: JudgeRound) -> str:
    """How much is unscored and for what reason mostly."""
    missing = found.whole.unscored
    if not missing.reasons:
        return f"All {count(found.verdicts)} verdicts are scored." if found.verdicts else "There are no verdicts."
    reason, times = next(iter(missing.reasons.items()))
    total = sum(missing.reasons.values())
    return (
        f"{count(total)} of {count(found.verdicts)} verdicts ({percent(missing.share.value)}) are unscored; "
        f"the most frequent reason is “{reason}” ({count(times)})."
    )
