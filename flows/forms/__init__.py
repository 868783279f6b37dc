"""What deployments start, and what their forms share: fields, names, tags, how a flow run ends, and its machine.

Prefect makes each form from the signature: titles and limits stand in the annotations, descriptions in the docstring.
No field may be null: the form would show a switch between types in place of the field. What a form lets through is
checked by the configuration, with the command line's messages.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

from prefect import get_run_logger, runtime, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Completed, Failed
from pydantic import Field

from flows.driver import worker_root
from flows.prefect_server import TAG
from flows.project_flow import GO_ON, heed_suspension, leave_if_suspended, project_flow
from tapir_core.config import RunConfig
from tapir_core.errors import ConfigError, NoFigure, TapirError
from tapir_core.paths import BACKBONES, RUN_RECORD
from tapir_core.reporting.page import sentence
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.summary import summarise

__all__ = [
    "MAX_ROUNDS",
    "Overrides",
    "RunName",
    "form_flow",
    "machine_to_distil",
    "machine_to_evaluate",
    "preset_file",
    "presets",
    "run_form_flow",
    "shown",
    "tag_flow_run",
]

MAX_ROUNDS = 49

_PRESETS = Path("configs")
"""In the folder in which a worker works."""

_ASK_AGAIN_SECONDS = 60.0
"""Between two looks at whether a run that waits for the machine was suspended."""

_FORGOTTEN_SECONDS = 120.0
"""For so long a flow run that was killed still has the machine."""


def shown(title: str, **more: Any) -> Any:
    """What a form shows of a field beside its description; Prefect takes titles from nowhere else."""
    return Field(json_schema_extra={"title": title, **more})


RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"), shown("TAPIR run")]

Overrides = Annotated[tuple[Annotated[str, Field(pattern="^[^=]+=")], ...], shown("Overrides")]
"""Settings, one `section.field=value` each."""


def presets(*, comparisons: bool = False) -> dict[str, list[str]]:
    """For the field of a form: names of configurations, of runs or of comparisons; any text where there are none."""
    compared = set(_PRESETS.glob("compare_*.toml"))
    files = compared if comparisons else set(_PRESETS.glob("*.toml")) - compared - {_PRESETS / Path(BACKBONES).name}
    return {"enum": sorted(file.stem for file in files)} if files else {}


def preset_file(name: str) -> Path:
    """The file of a preset."""
    return _PRESETS / f"{name}.toml"


def form_flow(name: str, *, run_name: str) -> Callable[[Callable[..., Any]], Any]:
    """A flow that a form starts: its state says what the function returns, or what a user can do about its error."""

    def wrap(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def body(*args: Any, **kwargs: Any) -> Any:
            try:
                done = function(*args, **kwargs)
                return Completed(message=done) if isinstance(done, str) else done
            except TapirError as error:
                get_run_logger().error("%s", error)
                # A wrong value stays wrong, and what failed for good has failed: told as the command line tells it.
                return Failed(message=str(error) if isinstance(error, ConfigError | NoFigure) else f"{error} {GO_ON}")

        return project_flow(name, run_name=run_name)(body)

    return wrap


def run_form_flow(name: str, *, run_name: str = "{run}") -> Callable[[Callable[..., Any]], Any]:
    """The same of a form that works on one run: named and tagged after it, and ready to be suspended."""

    def wrap(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def body(run: str, *args: Any, **kwargs: Any) -> Any:
            tag_flow_run(f"run-{run}")
            with tags(TAG, f"run-{run}"), heed_suspension(lambda: _progress_of(run)):
                return function(run, *args, **kwargs)

        return form_flow(name, run_name=run_name)(body)

    return wrap


def tag_flow_run(tag: str, *, name: str | None = None) -> None:
    """The form's flow run is there before it is known what it works on, which it may be named after."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, name=name, tags=sorted({*runtime.flow_run.tags, tag}))


def machine_to_distil(config: RunConfig) -> AbstractContextManager[None]:
    """This machine for a run that serves its student or trains it here; nothing for one that does neither."""
    serves = config.student.engine.served_by == "driver"
    return _whole_machine() if serves or config.training.runs_on == "driver" else nullcontext()


def machine_to_evaluate(config: RunConfig) -> AbstractContextManager[None]:
    """This machine for who serves students to score them, which replicas of a run do not; nothing for an endpoint."""
    return nullcontext() if config.student.engine.served_by == "others" else _whole_machine()


def _progress_of(name: str) -> str:
    run = RunFolder(RunRef(worker_root(), name))
    return sentence("next", summarise(run)) if run.storage.exists(RUN_RECORD) else "Nothing had begun."


@contextmanager
def _whole_machine() -> Iterator[None]:
    """Wait until no other deployed run distils on this machine: it takes the GPUs, or the cores, for itself.

    Held in the flow, not before it: a wrong value must not wait for hours before it is refused.
    """
    name = f"distill-on-{socket.gethostname()}"
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    get_run_logger().info("taking the machine (concurrency limit %s); another run may have to end first", name)
    with ExitStack() as held:
        while True:
            with suppress(TimeoutError):
                held.enter_context(
                    concurrency(name, timeout_seconds=_ASK_AGAIN_SECONDS, lease_duration=_FORGOTTEN_SECONDS)
                )
                break
            leave_if_suspended()
        yield
