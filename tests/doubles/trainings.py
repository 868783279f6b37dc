"""Trainings beyond this process, as tasks follow them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from tasks.follow_training import State, Training, lease_token

__all__ = ["ScriptedTrainings"]


@dataclass
class ScriptedTrainings:
    """Attempts whose states are written down beforehand (a `TrainingRuns`); asking for more is an error.

    A script may be a generator: what it does between two states happens between two looks.
    """

    scripts: list[Iterable[State]]
    """The states of each attempt, the first one as it is found or started."""
    in_container: bool = False
    asked: list[int] = field(default_factory=list)
    declared: list[tuple[str, State]] = field(default_factory=list)
    """Attempt and state, in the order in which they were set."""
    _states: dict[str, Iterator[State]] = field(default_factory=dict)

    def attempt(self, number: int) -> Training:
        """The attempt, in the first state of its script."""
        assert number <= len(self.scripts), f"no script for attempt {number}"
        self.asked.append(number)
        self._states[str(number)] = iter(self.scripts[number - 1])
        name, token = f"attempt-{number}", self.token(number)
        return self.look(Training(str(number), name, "SCHEDULED", "", token, self.in_container))

    def look(self, training: Training) -> Training:
        """The attempt in the next state of its script; a final state stays."""
        if training.has_ended:
            return training
        state = next(self._states[training.id])
        return replace(training, state=state, told=state.capitalize())

    def declare(self, training: Training, state: State, why: str) -> Training:
        """The attempt in that state, from now on."""
        self.declared.append((training.name, state))
        return replace(training, state=state, told=f"{state.capitalize()}: {why}")

    @staticmethod
    def token(number: int) -> str:
        """What the attempt writes into its lease."""
        return lease_token(str(number), 1)
