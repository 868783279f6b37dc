"""GPU workers as a run uses them: flow runs of *serve-student*, known again by a tag.

What goes wrong between here and the Prefect server becomes an error of ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled

from flows.commands.prefect_process import TAG
from tapir_core.config import ReplicasEngine
from tapir_core.errors import EngineError, MissingPrerequisite
from tapir_core.run_folder import RunFolder
from tasks.engines.replicas.watch import Ended, How
from tasks.runtime import current

__all__ = ["PrefectFleet", "join_fleet"]

SERVE_STUDENT = "serve-student/serve-student"

_ENDS: dict[StateType, How] = {
    StateType.COMPLETED: "completed",
    StateType.FAILED: "failed",
    StateType.CRASHED: "crashed",
    StateType.CANCELLED: "cancelled",
    StateType.CANCELLING: "cancelled",
}


def join_fleet(run: RunFolder) -> None:
    """Let GPU workers serve the run's student from now on, if its engine says so.

    Raises:
        MissingPrerequisite: this Prefect server has no such workers to start.
    """
    if isinstance(run.config.student.engine, ReplicasEngine):
        fleet = PrefectFleet(run)
        fleet.check()
        current(run).use_fleet(fleet)


class PrefectFleet:
    """Starts replicas of one run."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def check(self) -> None:
        """Raise MissingPrerequisite when nothing could be started."""
        with _client() as client:
            client.read_deployment_by_name(SERVE_STUDENT)

    def ask(self, number: int, replica: str) -> None:
        """Start a flow run; asking again under the same id starts no other."""
        name = self._run.ref.name
        with _translated():
            run_deployment(
                SERVE_STUDENT,
                parameters={"run": name, "after_round": number, "replica": replica},
                flow_run_name=name,
                tags=[TAG, f"run-{name}", _tag(replica)],
                idempotency_key=_tag(replica),
                timeout=0,
                as_subflow=False,
            )

    def ended(self, replica: str) -> Ended | None:
        """How its flow run ended; one that was deleted counts as cancelled."""
        with _client() as client:
            found = _find(client, replica)
        if found is None:
            return Ended("cancelled", "there is no flow run of it")
        state = found.state
        return Ended(_ENDS[state.type], state.message or "") if state is not None and state.type in _ENDS else None

    def withdraw(self, replica: str) -> None:
        """Cancel a flow run that waits for a worker."""
        with _client() as client:
            found = _find(client, replica)
            if found is not None and found.state is not None and found.state.is_scheduled():
                client.set_flow_run_state(found.id, Cancelled(message="The run does not need it any more."))


def _find(client: SyncPrefectClient, replica: str) -> FlowRun | None:
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[_tag(replica)]))
    return next(iter(client.read_flow_runs(flow_run_filter=tagged, limit=1)), None)


def _tag(replica: str) -> str:
    return f"replica-{replica}"


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    with _translated(), get_client(sync_client=True) as client:
        yield client


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ObjectNotFound as error:
        raise MissingPrerequisite(
            'student.engine.type = "replicas" needs the deployment serve-student and GPU workers, which this Prefect '
            "server lacks; `tapir up` starts all of it, `tapir deploy` applies the deployment to a server of yours"
        ) from error
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        raise EngineError(f"the Prefect server does not do what is asked: {error}; see that it runs") from error
