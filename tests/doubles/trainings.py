"""Trainings beyond this process, as tasks follow them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, State, StateType

from tasks.train import FineTuneRuns, lease_token


@dataclass
class ScriptedTrainings(FineTuneRuns):
    """Attempts whose states are written down beforehand; asking for more is an error.

    A script may be a generator: what it does between two states happens between two looks.
    """

    scripts: list[Iterable[str]]
    """The states of each attempt, the first one as it is found or started."""
    in_container: bool = False
    asked: list[int] = field(default_factory=list)
    declared: list[tuple[str, str]] = field(default_factory=list)
    """Attempt and state, in the order in which they were set."""
    _states: dict[UUID, Iterator[str]] = field(default_factory=dict)

    def attempt(self, number: int) -> FlowRun:
        """The attempt, in the first state of its script."""
        assert number <= len(self.scripts), f"no script for attempt {number}"
        self.asked.append(number)
        self._states[UUID(int=number)] = iter(self.scripts[number - 1])
        return self.look(
            FlowRun(
                id=UUID(int=number),
                flow_id=UUID(int=0),
                name=f"attempt-{number}",
                run_count=1,
                state=State(type=StateType.SCHEDULED),
                labels={"prefect.worker.type": "kubernetes" if self.in_container else "process"},
            )
        )

    def look(self, training: FlowRun) -> FlowRun:
        """The attempt in the next state of its script; a final state stays."""
        if training.state is not None and training.state.is_final():
            return training
        state = StateType(next(self._states[training.id]))
        return training.model_copy(update={"state": State(type=state)})

    def declare(self, training: FlowRun, state: StateType, why: str) -> FlowRun:
        """The attempt in that state, from now on."""
        self.declared.append((training.name, state.value))
        return training.model_copy(update={"state": State(type=state, message=why)})

    @staticmethod
    def token(number: int) -> str:
        """What the attempt writes into its lease."""
        return lease_token(str(UUID(int=number)), 1)
