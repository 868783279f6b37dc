"""The flow runs of *fine-tune* that train one student, on the Prefect server of this process.

An attempt's idempotency key is run, stage key and number: whoever asks for it again gets the flow run that is there.
It is no subflow of its driver: it outlives a driver that is killed, and the next one has another flow run.
"""

from dataclasses import replace
from typing import cast

from prefect import get_run_logger
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.objects import State as PrefectState
from prefect.settings import get_current_settings

from tapir_core.config import RunConfig
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.flow_runs import Deployment
from tasks.follow_training import State, Training, lease_token

__all__ = ["FINE_TUNE", "FineTuneRuns", "check_trainer"]

FINE_TUNE = "fine-tune/fine-tune"
"""Flow and deployment."""

_AWAY = "a training on a worker goes on, and once the server is back *Retry*, or the same command, follows it again"


def check_trainer(config: RunConfig) -> None:
    """Refuse a run whose trainings nobody would do, before anything is paid for.

    Raises:
        MissingPrerequisite: it trains on workers, and the server has no deployment *fine-tune*.
    """
    if config.training.runs_on == "worker":
        _fine_tune().check()


class FineTuneRuns:
    """The attempts at the training ``at`` of ``run`` (a `TrainingRuns`)."""

    def __init__(self, run: RunFolder, at: StageAt) -> None:
        self._ref, self._number = run.ref, at.number
        self._key = f"{run.record.id}:{run.key(at)}"
        self._fine_tune = _fine_tune()

    def attempt(self, number: int) -> Training:
        """The attempt with this number: the flow run that is there, or one that a worker of tapir-gpu takes up."""
        name = self._ref.name
        flow_run = self._fine_tune.start(
            f"{self._key}:{number}",
            {"run": name, "round_number": self._number},
            run_name=f"{name} round-{self._number}",
            tags=[f"run-{name}", f"round-{self._number}", "stage-train"],
        )
        get_run_logger().info("training in flow run %s (%s), attempt %d", flow_run.name, flow_run.id, number)
        return _training(flow_run)

    def look(self, training: Training) -> Training:
        """The attempt as it stands now; one that was deleted is lost."""
        found = self._fine_tune.look(training.id)
        return replace(training, state="CRASHED", told="Deleted") if found is None else _training(found)

    def declare(self, training: Training, state: State, why: str) -> Training:
        """Set an attempt's state, if it has not ended by itself."""
        self._fine_tune.set_state(training.id, PrefectState(type=StateType(state), message=why))
        return self.look(training)


def _fine_tune() -> Deployment:
    lacking = (
        f'training.runs_on = "worker" needs the deployment {FINE_TUNE}, which the Prefect server at '
        f"{get_current_settings().api.url} does not have; start one that has it with `tapir up`, apply it to "
        "this one with `tapir deploy`, or train here with --set training.runs_on=driver"
    )
    return Deployment(FINE_TUNE, lacking, _AWAY)


def _training(flow_run: FlowRun) -> Training:
    state = flow_run.state
    assert state is not None
    told = ": ".join(filter(None, (state.name, state.message)))
    token = lease_token(str(flow_run.id), flow_run.run_count)
    # A worker labels what it takes before it submits it.
    in_container = flow_run.labels.get("prefect.worker.type", "process") != "process"
    return Training(str(flow_run.id), flow_run.name, cast(State, state.type.value), told, token, in_container)
