"""The deployment *retry-judge*: what its form asks for, then the same steps as `tapir retry-judge`."""

from typing import Annotated

from prefect import get_run_logger
from pydantic import Field

from flows.distill import distill
from flows.driver import hold_known_run, is_done, worker_root
from flows.forms.form import MAX_ROUNDS, RunName, deployed_flow, shown
from flows.forms.machine import machine_to_distil
from flows.retry_judge import retry_judge
from flows.retry_sentences import changes_sentence, counts_sentence, nothing_sentence
from tapir_core.reporting.benchmarks import require_round_figures
from tapir_core.reporting.sentences import state_sentence
from tapir_core.reporting.summary import summarise
from tapir_core.run_folder import RunRef
from tapir_core.run_state import changed_stages, rounds_to_retry

__all__ = ["retry_judge_from_form"]


@deployed_flow("retry-judge")
def retry_judge_from_form(
    run: RunName,
    round_number: Annotated[int, Field(ge=0, le=MAX_ROUNDS), shown("Round")] = 0,
    also_terminal: Annotated[bool, shown("Ask unscored verdicts too")] = False,
    go_on: Annotated[bool, shown("Continue the run")] = False,
) -> str:
    """Ask the judge again for the verdicts that a run went on without.

    Args:
        run: Name of a run in the worker's root.
        round_number: One round. 0: all that are judged.
        also_terminal: Forget the replies of unscored verdicts (refused, no scores in the reply) and pay for them anew.
        go_on: Redo the stages that the new verdicts change, and go on to the run's end. Off: they are only named.
    """
    log = get_run_logger()
    with hold_known_run(RunRef(worker_root(), run), say=log.info) as opened:
        again = rounds_to_retry(opened, round_number or None, also_terminal=also_terminal)
        counts = retry_judge.fn(opened.ref, again, also_terminal) if again else []
        stale = changed_stages(opened)
        if go_on and (stale or not is_done(opened, None)):
            log.info("going on with the run")
            with machine_to_distil(opened.config):
                distill.fn(opened.ref)
        summary = summarise(opened)
        if go_on:
            require_round_figures(summary, opened.config.evaluation.each_round)
    reached = state_sentence(summary)
    if not again and not stale:
        return f"{nothing_sentence(also_terminal=also_terminal)} {reached}"
    return " ".join([*map(counts_sentence, counts), changes_sentence(stale, redone=go_on), reached])
