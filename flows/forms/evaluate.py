"""The deployment *evaluate*: what its form asks for, then the same steps as `tapir evaluate`."""

from contextlib import nullcontext
from typing import Annotated

from prefect import get_run_logger
from pydantic import Field

from flows.driver import hold_known_run, worker_root
from flows.evaluate import evaluate_students
from flows.forms.form import RunName, deployed_flow, shown
from flows.forms.machine import machine_to_evaluate
from tapir_core.reporting.benchmarks import benchmarks_sentence, require_figures
from tapir_core.reporting.sentences import scores_sentence
from tapir_core.reporting.students import find_benchmarks, find_students, unscored_students
from tapir_core.reporting.summary import summarise
from tapir_core.run_folder import RunRef

__all__ = ["evaluate_from_form"]


@deployed_flow("evaluate")
def evaluate_from_form(
    run: RunName,
    students: Annotated[str, Field(pattern=r"^(all|best|backbone|outputs|[0-9]{1,2})$"), shown("Students")] = "all",
    benchmarks: Annotated[str, shown("Benchmarks")] = "",
    also_terminal: Annotated[bool, shown("Ask failed judgments too")] = False,
) -> str:
    """Score students of a run on its held-out set, and on benchmarks, where their scores do not stand yet.

    Args:
        run: Name of a run in the worker's root, finished or not.
        students: `all` (backbone, S_0, every round that is trained, models of files), `best` by the dev split,
            `backbone`, the number of a round, or `outputs` (models whose outputs to the benchmarks are files).
        benchmarks: names of benchmarks that the run's configuration has, with commas between them; none if empty.
        also_terminal: Forget the replies of judgments that failed (refused, not to be read) and pay for them anew.
    """
    log = get_run_logger()
    with hold_known_run(RunRef(worker_root(), run), say=log.info, any_version=True) as opened:
        asked = find_benchmarks(opened, benchmarks)
        compared = find_students(opened, students, asked)
        numbers = [who for who in compared if isinstance(who, int)]
        unscored = unscored_students(opened, compared, asked, also_terminal=also_terminal)
        with machine_to_evaluate(opened.config) if unscored else nullcontext():
            evaluate_students.fn(opened.ref, compared, asked, also_terminal)
        summary = summarise(opened)
        require_figures(summary, compared, asked)
        return " ".join(
            filter(None, (scores_sentence(summary, numbers), benchmarks_sentence(summary, compared, asked)))
        )
