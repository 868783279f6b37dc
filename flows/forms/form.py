"""What the flows of all deployments share: how their forms show a field, how their runs are named, tagged and ended.

Prefect makes each form from the signature: titles and limits stand in the annotations, descriptions in the docstring.
No field may be null: the form would show a switch between types in place of the field.
"""

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

from prefect import get_run_logger, runtime, tags
from prefect.client.orchestration import get_client
from prefect.states import Completed, Failed
from pydantic import Field

from flows.commands.prefect_process import TAG
from flows.driver import worker_root
from flows.running.project_flow import project_flow
from flows.running.remedies import GO_ON
from flows.running.suspension import heed_suspension
from tapir_core.errors import ConfigError, NoFigure, TapirError
from tapir_core.paths import RUN_RECORD
from tapir_core.reporting.sentences import next_sentence
from tapir_core.reporting.summary import summarise
from tapir_core.run_folder import RunFolder, RunRef

__all__ = ["MAX_ROUNDS", "Overrides", "RunName", "deployed_flow", "shown", "tag_flow_run", "told"]

MAX_ROUNDS = 49


def shown(title: str, **more: Any) -> Any:
    """What a form shows of a field beside its description; Prefect takes titles from nowhere else."""
    return Field(json_schema_extra={"title": title, **more})


RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"), shown("TAPIR run")]

Overrides = Annotated[tuple[Annotated[str, Field(pattern="^[^=]+=")], ...], shown("Overrides")]
"""Settings, one `section.field=value` each."""


def deployed_flow(name: str, *, run_name: str = "{run}") -> Callable[[Callable[..., Any]], Any]:
    """A flow whose run is named after the run it works on, and whose state says what a user can do about an error."""

    def wrap(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def body(run: str, *args: Any, **kwargs: Any) -> Any:
            tag_flow_run(f"run-{run}")
            try:
                with tags(TAG, f"run-{run}"), heed_suspension(lambda: _progress_of(run)):
                    return Completed(message=function(run, *args, **kwargs))
            except TapirError as error:
                get_run_logger().error("%s", error)
                return Failed(message=told(error))

        return project_flow(name, run_name=run_name)(body)

    return wrap


def _progress_of(name: str) -> str:
    run = RunFolder(RunRef(worker_root(), name))
    return next_sentence(summarise(run)) if run.storage.exists(RUN_RECORD) else "Nothing had begun."


def tag_flow_run(tag: str, *, name: str | None = None) -> None:
    """The form's flow run is there before it is known what it works on, which it may be named after."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, name=name, tags=sorted({*runtime.flow_run.tags, tag}))


def told(error: TapirError) -> str:
    """What the state of a flow run says of an error that ended it."""
    # A wrong value stays wrong, and what failed for good has failed: both are told in the words of the command line.
    return str(error) if isinstance(error, ConfigError | NoFigure) else f"{error} {GO_ON}"
