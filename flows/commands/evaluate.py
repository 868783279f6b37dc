"""`tapir evaluate`: what the deployment *evaluate* does, in this process and on this terminal.

With `--annotations` it computes AlpacaEval's figures from judgments that are there: it asks nobody and starts nothing.
"""

import json
from typing import Annotated

import typer

from flows.commands import Also, Root, console, print_table, print_tables, run_ref, say
from tapir_core.errors import ConfigError, NoFigure
from tapir_core.evaluation.alpaca_eval import (
    AlpacaEvalFigures,
    measure_annotations,
    read_annotations,
    read_length_tables,
)
from tapir_core.evaluation.length_control import LengthTables
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE
from tapir_core.judging.estimates import Estimate, favoured_position
from tapir_core.reporting.benchmarks import benchmark_gains_table, benchmark_tables, require_figures
from tapir_core.reporting.page import Table, report_path
from tapir_core.reporting.report import write_report
from tapir_core.reporting.run_progress import find_benchmarks, find_students, unscored_students
from tapir_core.reporting.tables import students_table
from tapir_core.summary import RunReader, summarise
from tapir_core.summary.formats import NOTHING, count, number

_COLUMNS = ("AlpacaEval 2.0", "Value", "Standard error", "95 % interval", "n")


def evaluate(
    name: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Name of a run, or its folder.", show_default=False)
    ] = None,
    which: Annotated[
        str,
        typer.Option(
            "--round", metavar="N|best|backbone|outputs|all", help="Which student; 0 is S_0; models of files."
        ),
    ] = "all",
    benchmark: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME]", help="Benchmarks of the run's configuration, asked too.")
    ] = None,
    also: Annotated[
        Also, typer.Option(metavar="terminal", help="Ask judges of benchmarks anew where they failed for good.")
    ] = None,
    root: Root = "runs",
    annotations: Annotated[
        str | None, typer.Option(metavar="FILE", help="AlpacaEval's figures from these judgments, in place of a RUN.")
    ] = None,
    difficulty: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --annotations: how hard each instruction is.")
    ] = None,
    anchors: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --annotations: judgments that hold the effect of length.")
    ] = None,
    max_failed_share: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="With --annotations: no figure above this share of failed ones; 0.05 if left out."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --annotations: print one JSON object.")] = False,
) -> None:
    """`tapir evaluate`."""
    with_annotations = {
        "--difficulty": difficulty,
        "--anchors": anchors,
        "--max-failed-share": max_failed_share,
        "--json": as_json or None,
    }
    misplaced = [option for option, value in with_annotations.items() if value is not None]
    if annotations is not None:
        _check_alone(name, which, benchmark, also)
        _score_annotations(annotations, difficulty, anchors, max_failed_share, as_json=as_json)
    elif misplaced:
        raise ConfigError(f"{', '.join(misplaced)} without --annotations FILE: they go together")
    elif name is None:
        raise ConfigError("nothing to evaluate: give a RUN, or --annotations FILE")
    elif also and not benchmark:
        raise ConfigError(f"--also {also} without --benchmark NAME: it asks the judge of a benchmark anew")
    else:
        _evaluate_run(name, which, root, benchmark or "", also_terminal=also is not None)


def _check_alone(name: str | None, which: str, benchmark: str | None, also: str | None) -> None:
    """Refuse what is about a run beside ``--annotations``."""
    about_a_run = {
        f"a run ({name})": (name is not None, "give one of the two"),
        f"--benchmark {benchmark}": (benchmark is not None, "a benchmark is asked of the students of a RUN"),
        f"--also {also}": (also is not None, "nobody is asked for judgments that are there"),
        f"--round {which}": (which != "all", "a round is one of a RUN"),
    }
    for given, (is_given, why) in about_a_run.items():
        if is_given:
            raise ConfigError(f"{given} and --annotations: {why}")


def _evaluate_run(name: str, which: str, root: str, benchmark: str, *, also_terminal: bool) -> None:
    # Here: annotations are read without the engines, the store and Prefect.
    from flows.commands.live import connected, shown_live
    from flows.driver import hold_known_run

    with hold_known_run(run_ref(name, root), say=say, any_version=True) as run:
        benchmarks = find_benchmarks(run, benchmark)
        compared = find_students(run, which, benchmarks)
        if unscored_students(run, compared, benchmarks, also_terminal=also_terminal):
            with connected(run.ref), shown_live(run, console):
                from flows.evaluate import evaluate_students

                evaluate_students(run.ref, compared, benchmarks, also_terminal)
        else:
            write_report(run)
        summary = summarise(run)
        numbers = [who for who in compared if isinstance(who, int)]
        print_tables(console, students_table(summary, numbers), *benchmark_tables(summary, compared, benchmarks))
        if benchmarks:
            print_tables(console, benchmark_gains_table(RunReader(run), numbers, summary.best))
        say(f"report: {report_path(summary)}")
        require_figures(summary, compared, benchmarks)


def _score_annotations(
    path: str, difficulty: str | None, anchors: str | None, max_failed_share: float | None, *, as_json: bool
) -> None:
    """Print the figures of one model's annotations.

    Raises:
        ConfigError: a file is wrong, or only one of difficulty and anchors is given.
        NoFigure: more than ``max_failed_share`` of the judgments failed.
    """
    most = MAX_FAILED_SHARE if max_failed_share is None else max_failed_share
    tables = _read_tables(difficulty, anchors)
    found = read_annotations(path)
    figures = measure_annotations(found.judged, tables, max_failed_share=most)
    rate = figures.rates.win_rate
    if rate.estimate.value is None:
        raise NoFigure(
            f"{path}: {rate.estimate.why}; so there is no figure. "
            "Have the failed ones judged again, or allow a larger share with --max-failed-share"
        )
    if found.in_words:
        say(found.in_words)
    if rate.n_failed:
        say(f"{rate.n_failed} of {len(found.judged)} judgments failed; they are in no figure")
    if tables is not None and len(found.judged) < len(tables.difficulty):
        say(
            f"{len(found.judged)} annotations, but a difficulty table of {len(tables.difficulty)} instructions: "
            "annotations take their difficulty by place, as published figures do, so behind a gap they take a "
            "neighbour's"
        )
    if figures.length_is_doubtful:
        say("length control moves the win rate very far: look at the lengths before you trust it")
    if bias := _position_bias(figures):
        say(bias)
    if as_json:
        typer.echo(json.dumps(figures.to_dict()))
    else:
        print_table(console, _figures_table(figures, found.in_words))


def _figures_table(figures: AlpacaEvalFigures, whose: str) -> Table:
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
    return Table("Against the baseline", _COLUMNS, tuple(rows), note=" ".join(notes))


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
