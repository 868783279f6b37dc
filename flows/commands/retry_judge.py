"""What `tapir retry-judge` does around its flow: say what there is to ask, what came, and what it changes."""

from collections.abc import Callable

from rich.console import Console

from flows.commands import print_rows
from flows.commands.live import shown_live
from flows.driver import is_done
from flows.prefect_server.connection import connect_prefect
from tapir_core.reporting.benchmarks import require_round_figures
from tapir_core.reporting.sentences import changes_sentence, nothing_sentence
from tapir_core.run_folder import RunFolder
from tapir_core.run_state import changed_stages, rounds_to_retry
from tapir_core.summary import summarise

__all__ = ["ask_again"]


def ask_again(
    run: RunFolder,
    number: int | None,
    console: Console,
    *,
    say: Callable[[str], None],
    also_terminal: bool,
    go_on: bool,
) -> None:
    """Ask again for what the judged rounds lack; with ``go_on`` redo what that changes, and go on to the run's end.

    Raises:
        ConfigError: round ``number`` is not judged.
        NoFigure: the run went on, and too many judgments of a benchmark failed.
    """
    rounds = rounds_to_retry(run, number, also_terminal=also_terminal)
    if rounds or changed_stages(run) or (go_on and not is_done(run, None)):
        _ask_rounds(run, rounds, console, say=say, also_terminal=also_terminal, go_on=go_on)
    else:
        console.print(nothing_sentence(also_terminal=also_terminal))
    if go_on:
        require_round_figures(summarise(run), run.config.evaluation.each_round)


def _ask_rounds(
    run: RunFolder,
    rounds: list[int],
    console: Console,
    *,
    say: Callable[[str], None],
    also_terminal: bool,
    go_on: bool,
) -> None:
    say("connecting to Prefect")
    with connect_prefect(run.ref), shown_live(run, console):
        if rounds:
            # Not before: Prefect reads its settings when it is imported.
            from flows.retry_judge import retry_judge

            _print_counts(console, retry_judge(run.ref, rounds, also_terminal))
        stale = changed_stages(run)
        if go_on:
            from flows.distill import distill

            say("going on with the run")
            distill(run.ref)
        console.print(changes_sentence(stale, redone=go_on), highlight=False)
        if stale and not go_on:
            console.print(
                f"redo them with `tapir retry-judge {run.ref.name} --continue`, or with the run's own command"
            )


def _print_counts(console: Console, counts: list[dict[str, int]]) -> None:
    names = ("round", "missing_before", "missing_after", "unscored_before", "unscored_after")
    columns = ("round", "missing before", "after", "unscored before", "after")
    print_rows(console, columns, (tuple(str(each[name]) for name in names) for each in counts))
