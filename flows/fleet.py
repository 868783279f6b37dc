"""GPU workers as a run uses them: flow runs of *serve-student*, known again by a tag."""

from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled

from flows.prefect_server import TAG
from tapir_core.run_folder import RunFolder
from tasks.engines.replicas import Ended, How, ReplicaStudents, replicas_of
from tasks.flow_runs import Deployment
from tasks.runtime import current

SERVE_STUDENT = "serve-student/serve-student"

_LACKING = (
    'student.engine.type = "replicas" needs the deployment serve-student and GPU workers, which this Prefect server '
    "lacks; `tapir up` starts all of it, `tapir deploy` applies the deployment to a server of yours"
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
        fleet, runtime = PrefectFleet(run), current(run)
        fleet.check()
        runtime.use_students(lambda: ReplicaStudents(replicas_of(run, fleet, runtime.progress.note_current)))


class PrefectFleet:
    """Starts replicas of one run."""

    def __init__(self, run: RunFolder) -> None:
        self._name = run.ref.name
        self._serving = Deployment(SERVE_STUDENT, _LACKING, "see that it runs")

    def check(self) -> None:
        """Raise MissingPrerequisite when nothing could be started."""
        self._serving.check()

    def ask(self, number: int, replica: str) -> None:
        """Start a flow run; asking again under the same id starts no other."""
        tag = _tag(replica)
        parameters = {"run": self._name, "after_round": number, "replica": replica}
        self._serving.start(tag, parameters, run_name=self._name, tags=[TAG, f"run-{self._name}", tag])

    def ended(self, replica: str) -> Ended | None:
        """How its flow run ended; one that was deleted counts as cancelled."""
        found = self._serving.find(_tag(replica))
        if found is None:
            return Ended("cancelled", "there is no flow run of it")
        state = found.state
        return Ended(_ENDS[state.type], state.message or "") if state is not None and state.type in _ENDS else None

    def withdraw(self, replica: str) -> None:
        """Cancel a flow run that waits for a worker."""
        found = self._serving.find(_tag(replica))
        if found is not None and found.state is not None and found.state.is_scheduled():
            self._serving.set_state(str(found.id), Cancelled(message="The run does not need it any more."))


def _tag(replica: str) -> str:
    return f"replica-{replica}"
