"""A flow run of a standing root: what its page shows, its buttons, and the process that works on it."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import psutil

from tests.waiting import Found

__all__ = ["ENDS", "FlowRun", "State"]

ENDS = ("Completed", "Failed", "Crashed")
"""Names of the states in which a flow run ends that nobody cancels."""


class State(NamedTuple):
    """Of a flow run, as the server has it."""

    type: str
    name: str
    message: str


class Root(Protocol):
    """What a flow run needs of the root that it belongs to; `StandingRoot` is one."""

    address: str

    def ask(self, path: str, body: object = None) -> Any: ...

    def family(self) -> list[psutil.Process]: ...

    def wait_until(self, look: Callable[[], Found], told: Callable[[], str], *, every: float) -> Found: ...


class FlowRun:
    """A flow run, by the id that it keeps through all its attempts."""

    def __init__(self, root: Root, run_id: str) -> None:
        self._root, self.id = root, run_id
        self.page = f"{root.address}/runs/flow-run/{run_id}"

    def read(self) -> dict[str, Any]:
        """Everything that the API says of it."""
        found: dict[str, Any] = self._root.ask(f"/flow_runs/{self.id}")
        return found

    def state(self) -> State:
        """Its state now."""
        state = self.read()["state"]
        return State(state["type"], state["name"], state["message"] or "")

    def wait_for(self, *names: str) -> State:
        """Wait for a state of one of these names, or for its end where none is given."""
        return self._wait(lambda state: state.name in (names or ENDS))

    def wait_for_message(self, words: str) -> State:
        """Wait until its state says these words."""
        return self._wait(lambda state: words in state.message)

    def press(self, button: str) -> None:
        """Press *suspend*, *resume*, *cancel* or *retry*: send what the UI sends."""
        limit = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300))
        details = {"pause_timeout": limit, "pause_reschedule": True}
        states: dict[str, dict[str, Any]] = {
            "suspend": {"type": "PAUSED", "name": "Suspended", "state_details": details},
            "cancel": {"type": "CANCELLING", "name": "Cancelling"},
            "retry": {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"},
        }
        if button == "resume":
            assert self._root.ask(f"/flow_runs/{self.id}/resume", {})["status"] == "ACCEPT"
        else:
            self.set_state(states[button])

    def retry_until_it_goes_on(self) -> None:
        """Press *retry* until a run that crashed or was cancelled goes on.

        A crash is told by the process's runner, by our hook, and after up to a second by the worker, and a cancelled
        run by several too; a button pressed before the last of them is taken back, and a person presses it again.
        """

        def goes_on() -> bool:
            state = self.state()
            if state.type in ("CRASHED", "CANCELLED"):
                self.press("retry")
            return state.type not in ("CRASHED", "CANCELLED", "SCHEDULED")

        self._root.wait_until(goes_on, lambda: f"{self.page} does not go on: {self.state()}", every=0.5)

    def set_state(self, state: dict[str, Any]) -> None:
        """What only the server or an automation does of itself."""
        answer = self._root.ask(f"/flow_runs/{self.id}/set_state", {"state": state})
        assert answer["status"] == "ACCEPT", answer

    def task_runs(self) -> Counter[str]:
        """How many of its task runs are in each state, by name of stage and state."""
        found = self._root.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [self.id]}}})
        return Counter(f"{each['name'].split()[0]} {each['state_name']}" for each in found)

    def logged(self, words: str) -> list[str]:
        """What it has logged that holds these words, newest first."""
        wanted = {"logs": {"flow_run_id": {"any_": [self.id]}}, "sort": "TIMESTAMP_DESC"}
        return [each["message"] for each in self._root.ask("/logs/filter", wanted) if words in each["message"]]

    def process(self) -> psutil.Process:
        """The process that works on it."""
        for each in self._root.family():
            with suppress(psutil.NoSuchProcess):
                if each.environ().get("PREFECT__FLOW_RUN_ID") == self.id:
                    return each
        raise AssertionError(f"no process works on {self.page}; its state is {self.state()}")

    def children(self) -> list[psutil.Process]:
        """What its process has started; nothing before it works."""
        with suppress(psutil.NoSuchProcess, AssertionError):
            return list(self.process().children(recursive=True))
        return []

    def _wait(self, wanted: Callable[[State], bool]) -> State:
        def look() -> State | None:
            state = self.state()
            return state if wanted(state) else None

        found = self._root.wait_until(look, lambda: f"{self.page} is still {self.state()}", every=0.2)
        assert found is not None
        return found
