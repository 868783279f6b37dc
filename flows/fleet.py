"""GPU workers as a run uses them: flow runs of *serve-student* and *fine-tune*, known again by a tag."""

from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled

from flows.prefect_server.server import TAG
from tapir_core.run_folder import RunFolder
from tasks import flow_runs, train
from tasks.engines.replicas import Ended, How, replicas_of
from tasks.runtime import current

SERVING = flow_runs.Deployment(
    "serve-student/serve-student",
    lacking='student.engine.type = "replicas" needs the deployment serve-student and GPU workers, which this Prefect '
    "server lacks; `tapir up` starts all of it, `tapir deploy` applies the deployment to a server of yours",
    away="see that it runs",
)

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
    if run.config.student.engine.served_by == "workers":
        fleet, runtime = serving_fleet(run), current(run)
        SERVING.check()
        runtime.use_students(lambda: replicas_of(run, fleet, runtime.progress.note_current))


def serving_fleet(run: RunFolder) -> "PrefectFleet":
    """Starts replicas."""
    return PrefectFleet(run, SERVING, round_field="after_round", field="replica")


def training_fleet(run: RunFolder) -> "PrefectFleet":
    """Starts nodes that join a training."""
    return PrefectFleet(run, train.FINE_TUNE, round_field="round_number", field="node")


class PrefectFleet:
    """Starts what one run asks for under ids of its own: replicas, or nodes of a training."""

    def __init__(self, run: RunFolder, deployment: flow_runs.Deployment, *, round_field: str, field: str) -> None:
        """Parameters of the deployment's flow: the round in ``round_field``, the id in ``field``."""
        self._name, self._deployment = run.ref.name, deployment
        self._round_field, self._field = round_field, field

    def ask(self, number: int, asked: str) -> None:
        """Start a flow run; asking again under the same id starts no other."""
        tag = self._tag(asked)
        parameters = {"run": self._name, self._round_field: number, self._field: asked}
        self._deployment.start(tag, parameters, run_name=self._name, tags=[TAG, f"run-{self._name}", tag])

    def ended(self, asked: str) -> Ended | None:
        """How its flow run ended; one that was deleted counts as cancelled."""
        found = self._deployment.find(self._tag(asked))
        if found is None:
            return Ended("cancelled", "there is no flow run of it")
        state = found.state
        return Ended(_ENDS[state.type], state.message or "") if state is not None and state.type in _ENDS else None

    def withdraw(self, asked: str) -> None:
        """Cancel a flow run that waits for a worker."""
        found = self._deployment.find(self._tag(asked))
        if found is not None and found.state is not None and found.state.is_scheduled():
            self._deployment.set_state(str(found.id), Cancelled(message="The run does not need it any more."))

    def _tag(self, asked: str) -> str:
        return f"{self._field}-{asked}"
