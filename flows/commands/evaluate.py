"""`tapir evaluate`: what the deployment *evaluate* does, in this process and on this terminal.

With `--annotations` it computes AlpacaEval's figures from judgments that are there: it asks nobody and starts nothing.
"""

import json
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from flows.commands.terminal import Also, Root, console, print_tables, run_ref, say
from tapir_core import errors, run_folder, stages, statistics
from tapir_core.config import problems
from tapir_core.evaluation import alpaca_eval
from tapir_core.judging.agreement import favoured_position
from tapir_core.reporting import page, tables
from tapir_core.reporting.benchmarks import benchmark_gains_table, benchmark_tables
from tapir_core.summary import RunReader, formats, types


def evaluate(
    name: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Name of a run, or its folder.", show_default=False)
    ] = None,
    which: Annotated[
        str,
        typer.Option(
            "--round", metavar="N|best|backbone|average|outputs|all", help="Which student; 0 is S_0; models of files."
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
    figures = {
        "--difficulty": difficulty,
        "--anchors": anchors,
        "--max-failed-share": max_failed_share,
        "--json": as_json or None,
    }
    given = [option for option, value in figures.items() if value is not None]
    if annotations is None:
        _evaluate_run(name or "", root, which, benchmark or "", also, given)
        return
    _refuse(
        (name, f"a run ({name}) and --annotations: give one of the two"),
        (benchmark, f"--benchmark {benchmark} and --annotations: a benchmark is asked of the students of a RUN"),
        (also, f"--also {also} and --annotations: nobody is asked for judgments that are there"),
        (which != "all", f"--round {which} and --annotations: a round is one of a RUN"),
        (difficulty and not anchors, "--difficulty without --anchors: the length-controlled win rate needs both"),
        (anchors and not difficulty, "--anchors without --difficulty: the length-controlled win rate needs both"),
    )
    _score_annotations(annotations, difficulty, anchors, max_failed_share, as_json=as_json)


def _refuse(*mistakes: tuple[object, str]) -> None:
    """Raise ConfigError for the first of these that is made; each says what is wrong with it."""
    for is_made, why in mistakes:
        if is_made:
            raise errors.ConfigError(why)


def _evaluate_run(name: str, root: str, which: str, benchmark: str, also: Also, given: Sequence[str]) -> None:
    """Score students of a run; ``given`` are options of annotations, which it has not."""
    _refuse(
        (given, f"{', '.join(given)} without --annotations FILE: they go together"),
        (not name, "nothing to evaluate: give a RUN, or --annotations FILE"),
        (also and not benchmark, f"--also {also} without --benchmark NAME: it asks the judge of a benchmark anew"),
    )
    # Here: annotations are read without the engines, the store and Prefect.
    from flows.commands.live import shown_flows
    from flows.whole_run import evaluate_run

    ref = run_ref(name, root)
    with shown_flows(ref, console) as shown:
        evaluate_run(ref, which, benchmark, shown.do, _show, say=say, also_terminal=also is not None)


def _show(
    run: run_folder.RunFolder, summary: types.RunSummary, compared: Sequence[stages.Compared], benchmarks: Sequence[str]
) -> None:
    numbers = [who for who in compared if isinstance(who, int)]
    print_tables(console, tables.students_table(summary, numbers), *benchmark_tables(summary, compared, benchmarks))
    if benchmarks:
        print_tables(console, benchmark_gains_table(RunReader(run), numbers, summary.best))
    say(f"report: {summary.report_path}")


def _score_annotations(
    path: str, difficulty: str | None, anchors: str | None, max_failed_share: float | None, *, as_json: bool
) -> None:
    """Print the figures of one model's annotations.

    Raises:
        ConfigError: a file is wrong.
        NoFigure: more than ``max_failed_share`` of the judgments failed.
    """
    lengths = alpaca_eval.read_length_tables(difficulty, anchors)
    found = alpaca_eval.read_annotations(path)
    most = statistics.MAX_FAILED_SHARE if max_failed_share is None else max_failed_share
    figures = alpaca_eval.measure_annotations(found.judged, lengths, max_failed_share=most)
    if figures.win_rate.value is None:
        raise errors.NoFigure(
            f"{path}: {figures.win_rate.note}; so there is no figure. "
            "Have the failed ones judged again, or allow a larger share with --max-failed-share"
        )
    cautions = _cautions(found, figures, 0 if lengths is None else len(lengths.difficulty))
    for sentence in cautions:
        say(sentence)
    if as_json:
        typer.echo(json.dumps(figures.to_dict()))
    else:
        print_tables(console, _figures_table(figures, cautions))


def _cautions(
    found: alpaca_eval.AnnotationFile, figures: alpaca_eval.AlpacaEvalFigures, instructions: int
) -> list[str]:
    """What must be known beside the figures; ``instructions`` are those of the difficulty table."""
    given, failed, favoured = len(found.judged), figures.win_rate.failed, favoured_position(figures.position)
    return problems(
        {
            found.in_words: found.in_words,
            f"{failed} of {given} judgments failed; they are in no figure": failed,
            f"{given} annotations, but a difficulty table of {instructions} instructions: annotations take their "
            "difficulty by place, as published figures do, so behind a gap they take a neighbour's": (
                given < instructions
            ),
            "length control moves the win rate very far: look at the lengths before you trust it": (
                figures.length_is_doubtful
            ),
            f"position bias: the annotator favours the output shown {favoured}": favoured in ("first", "second"),
        }
    )


def _figures_table(figures: alpaca_eval.AlpacaEvalFigures, cautions: Sequence[str]) -> page.Table:
    """The figures in words; ``cautions`` stand in the note."""
    estimates = {
        "win rate, %": figures.win_rate,
        "discrete win rate, %": figures.discrete,
        "length-controlled win rate, %": figures.controlled,
    }
    if figures.position.value is not None:
        estimates["gain by standing first, points"] = figures.position
    controlled = figures.controlled
    notes = [
        *cautions,
        figures.outcomes,
        f"The length-controlled win rate {controlled.note}"
        if controlled.value is None
        else "Errors and intervals are of sampling: what other instructions would have made of it. The published "
        f"lc_standard_error, the spread of predictions, is {formats.number(controlled.spread)}",
        *(
            f"The {name.partition(',')[0]} has no interval: {each.note}"
            for name, each in estimates.items()
            if each.value is not None and each.note
        ),
    ]
    sentences = " ".join(f"{each[:1].upper()}{each[1:]}." for each in notes)
    return page.table_of("Against the baseline", _COLUMNS, estimates.items(), note=sentences)


_COLUMNS: tuple[tuple[str, Callable[[tuple[str, statistics.Estimate]], str]], ...] = (
    ("AlpacaEval 2.0", lambda row: row[0]),
    ("Value", lambda row: formats.number(row[1].value)),
    ("Standard error", lambda row: formats.number(row[1].stderr)),
    ("95 % interval", lambda row: row[1].span("{:.2f}".format) or formats.NOTHING),
    ("n", lambda row: formats.count(row[1].n)),
)
