"""Flow *serve-student*: one replica of a run's student on a GPU worker, until the run does not need it.

A run whose `student.engine.type` is "replicas" starts it as often as it wants replicas; a person may add one.
"""

from typing import Annotated

from prefect import get_run_logger
from pydantic import Field

from flows.driver import worker_root
from flows.forms.form import MAX_ROUNDS, RunName, deployed_flow, shown
from tapir_core.run_folder import RunFolder, RunRef
from tasks.serving import ASKED_NOW, serve_replica

__all__ = ["serve_student_from_form"]


@deployed_flow("serve-student")
def serve_student_from_form(
    run: RunName,
    after_round: Annotated[int, Field(ge=ASKED_NOW, le=MAX_ROUNDS), shown("After round")] = ASKED_NOW,
    replica: Annotated[str, Field(pattern="^[0-9a-f]*$"), shown("Replica")] = "",
) -> str:
    """Serve a run's student on all GPUs of a worker until the run does not need it.

    Args:
        run: Name of a run in the worker's root that is at work.
        after_round: The student after this round; 0 is S_0, -1 the untouched backbone, -2 the one that the run asks
            now. Nothing is served when the run asks for another.
        replica: Filled in by runs, to know again which one they asked for. Empty: one more than the run asked for.
    """
    opened = RunFolder(RunRef(worker_root(), run))
    return f"Ended: {serve_replica(opened, after_round, replica, say=get_run_logger().info)}."
