"""The tables of the judge report as text cells, made once and shown in the report and as artifacts."""

from collections.abc import Callable

from tapir_core.judging.agreement import WINNERS
from tapir_core.judging.estimates import Estimate
from tapir_core.reporting.judge_round import JudgeRound, Measures
from tapir_core.reporting.judge_sentences import correlation, points
from tapir_core.reporting.tables import Table
from tapir_core.summary.formats import NOTHING, count, number, percent, round_name

__all__ = ["judge_tables"]

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
