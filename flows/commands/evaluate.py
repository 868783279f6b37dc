"""`tapir evaluate`: what the deployment *evaluate* does, in this process and on this terminal.

With `--annotations` it computes a benchmark's figures from judgments that are there.
"""

from typing import Annotated

import typer

from flows.commands.lines import console, say
from flows.commands.run_names import run_ref
from tapir_core.errors import ConfigError

__all__ = ["evaluate"]


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
        str | None, typer.Option(metavar="terminal", help="Ask judges of benchmarks anew where they failed for good.")
    ] = None,
    root: Annotated[str, typer.Option(help="Folder of all runs.")] = "runs",
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
    """Score students of a run on its held-out set and on benchmarks, where scores do not stand; or read annotations."""
    with_annotations = {
        "--difficulty": difficulty,
        "--anchors": anchors,
        "--max-failed-share": max_failed_share,
        "--json": as_json or None,
    }
    if annotations is None:
        if misplaced := [option for option, value in with_annotations.items() if value is not None]:
            raise ConfigError(f"{', '.join(misplaced)} without --annotations FILE: they go together")
        if name is None:
            raise ConfigError("nothing to evaluate: give a RUN, or --annotations FILE")
        if also not in (None, "terminal"):
            raise ConfigError(f"--also {also}: only `terminal` is known")
        if also and not benchmark:
            raise ConfigError(f"--also {also} without --benchmark NAME: it asks the judge of a benchmark anew")
        _evaluate_run(name, which, root, benchmark or "", also_terminal=also is not None)
        return
    if name is not None:
        raise ConfigError(f"a run ({name}) and --annotations: give one of the two")
    if benchmark is not None:
        raise ConfigError(f"--benchmark {benchmark} and --annotations: a benchmark is asked of the students of a RUN")
    if also is not None:
        raise ConfigError(f"--also {also} and --annotations: nobody is asked for judgments that are there")
    if which != "all":
        raise ConfigError(f"--round {which} and --annotations: a round is one of a RUN")
    from flows.commands.annotations import score_annotations
    from tapir_core.evaluation.statistics import MAX_FAILED_SHARE

    score_annotations(
        annotations,
        difficulty,
        anchors,
        max_failed_share=MAX_FAILED_SHARE if max_failed_share is None else max_failed_share,
        as_json=as_json,
        console=console,
        say=say,
    )


def _evaluate_run(name: str, which: str, root: str, benchmark: str, *, also_terminal: bool) -> None:
    from flows.commands.distil import shown_live
    from flows.commands.server import connect_prefect
    from flows.commands.tables import print_table
    from flows.driver import hold_known_run
    from tapir_core.reporting.accuracy_tables import students_table
    from tapir_core.reporting.benchmark_gains import benchmark_gains_table
    from tapir_core.reporting.benchmarks import benchmark_tables, require_figures
    from tapir_core.reporting.look import Look
    from tapir_core.reporting.report import write_report
    from tapir_core.reporting.sentences import report_path
    from tapir_core.reporting.students import find_benchmarks, find_students, unscored_students
    from tapir_core.reporting.summary import summarise

    with hold_known_run(run_ref(name, root), say=say, any_version=True) as run:
        benchmarks = find_benchmarks(run, benchmark)
        compared = find_students(run, which, benchmarks)
        if unscored_students(run, compared, benchmarks, also_terminal=also_terminal):
            say("connecting to Prefect")
            with connect_prefect(run.ref), shown_live(run, console):
                from flows.evaluate import evaluate_students

                evaluate_students(run.ref, compared, benchmarks, also_terminal)
        else:
            write_report(run)
        summary = summarise(run)
        numbers = [who for who in compared if isinstance(who, int)]
        tables = [students_table(summary, numbers), *benchmark_tables(summary, compared, benchmarks)]
        if benchmarks:
            tables.append(benchmark_gains_table(Look(run), numbers, summary.best))
        for table in tables:
            if table.rows:
                print_table(console, table)
        say(f"report: {report_path(summary)}")
        require_figures(summary, compared, benchmarks)
