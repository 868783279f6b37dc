"""`tapir evaluate --annotations`: AlpacaEval's figures from judgments that are there. Asks nobody, starts nothing."""

import json
from collections.abc import Callable

import typer
from rich.console import Console

from tapir_core.errors import ConfigError, NoFigure
from tapir_core.evaluation.alpaca_eval import AlpacaEvalFigures, measure_annotations
from tapir_core.evaluation.annotations import read_annotations
from tapir_core.evaluation.length_control import LengthTables, read_length_tables
from tapir_core.judging.agreement import favoured_position
from tapir_core.judging.estimates import Estimate
from tapir_core.reporting.formats import NOTHING, count, number
from tapir_core.reporting.tables import Table

__all__ = ["figures_table", "score_annotations"]


def score_annotations(
    path: str,
    difficulty: str | None,
    anchors: str | None,
    *,
    max_failed_share: float,
    as_json: bool,
    console: Console,
    say: Callable[[str], None],
) -> None:
    """Print the figures of one model's annotations.

    Raises:
        ConfigError: a file is wrong, or only one of difficulty and anchors is given.
        NoFigure: more than ``max_failed_share`` of the judgments failed.
    """
    from flows.commands.tables import print_table

    tables = _read_tables(difficulty, anchors)
    found = read_annotations(path)
    judged = found.judged
    figures = measure_annotations(judged, tables, max_failed_share=max_failed_share)
    rate = figures.rates.win_rate
    if rate.estimate.value is None:
        raise NoFigure(
            f"{path}: {rate.estimate.why}; so there is no figure. "
            "Have the failed ones judged again, or allow a larger share with --max-failed-share"
        )
    if found.in_words:
        say(found.in_words)
    if rate.n_failed:
        say(f"{rate.n_failed} of {len(judged)} judgments failed; they are in no figure")
    if tables is not None and len(judged) < len(tables.difficulty):
        say(
            f"{len(judged)} annotations, but a difficulty table of {len(tables.difficulty)} instructions: annotations "
            "take their difficulty by place, as published figures do, so behind a gap they take a neighbour's"
        )
    if figures.length_is_doubtful:
        say("length control moves the win rate very far: look at the lengths before you trust it")
    if bias := _position_bias(figures):
        say(bias)
    if as_json:
        typer.echo(json.dumps(figures.to_dict()))
    else:
        print_table(console, figures_table(figures, found.in_words))


def figures_table(figures: AlpacaEvalFigures, whose: str = "") -> Table:
    """The figures in words; ``whose`` judgments they are of stands in the note."""
    rates, controlled = figures.rates, figures.controlled
    estimates = {
        "win rate": rates.win_rate.estimate,
        "discrete win rate": rates.discrete.estimate,
        "length-controlled win rate": controlled,
    }
    rows = [_row(f"{name}, %", estimate) for name, estimate in estimates.items()]
    if figures.position.value is not None:
        estimates["gain by standing first"] = figures.position
        rows.append(_row("gain by standing first, points", figures.position))
    notes = [f"{whose[:1].upper()}{whose[1:]}."] if whose else []
    notes.append(f"{count(rates.n_wins)} wins, {count(rates.n_wins_base)} losses, {count(rates.n_draws)} draws.")
    if failed := rates.win_rate.n_failed:
        notes.append(f"{count(failed)} judgments failed and are in no figure.")
    if controlled.value is None:
        notes.append(f"The length-controlled win rate {controlled.why}.")
    else:
        notes.append(
            "Errors and intervals are of sampling: what other instructions would have made of it. The published "
            f"lc_standard_error, the spread of predictions, is {number(figures.controlled_spread)}."
        )
    notes += [
        f"The {name} has no interval: {each.why}."
        for name, each in estimates.items()
        if each.value is not None and each.why
    ]
    if bias := _position_bias(figures):
        notes.append(f"{bias[0].upper()}{bias[1:]}.")
    columns = ("AlpacaEval 2.0", "Value", "Standard error", "95 % interval", "n")
    return Table("Against the baseline", columns, tuple(rows), note=" ".join(notes))


def _row(name: str, found: Estimate) -> tuple[str, ...]:
    interval = NOTHING if found.low is None or found.high is None else f"{found.low:.2f} to {found.high:.2f}"
    return (name, number(found.value), number(found.stderr), interval, count(found.n))


def _position_bias(figures: AlpacaEvalFigures) -> str:
    """Empty where no position is favoured, or nothing can tell."""
    favoured = favoured_position(figures.position)
    return (
        f"position bias: the annotator favours the output shown {favoured}" if favoured in ("first", "second") else ""
    )


def _read_tables(difficulty: str | None, anchors: str | None) -> LengthTables | None:
    if difficulty is None and anchors is None:
        return None
    if difficulty is None or anchors is None:
        given, lacking = ("--anchors", "--difficulty") if difficulty is None else ("--difficulty", "--anchors")
        raise ConfigError(f"{given} without {lacking}: the length-controlled win rate needs both")
    return read_length_tables(difficulty, anchors)
