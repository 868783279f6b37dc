"""*Suspend* of a deployed flow run from the UI: what is in flight ends, nothing new begins, *Resume* goes on.

Prefect follows the state of the flow run and raises its `Pause` at the next boundary of flow and tasks. Here is what it
cannot know: that requests which wait to be sent are to be left, that tasks at work need their engines to the end, and
what the state should say. Limits: a batch that a Batch API works on is left after `GRACE_SECONDS`, and found again.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import Cancelled

from tasks.runtime import abort_all, stop_all

__all__ = ["GRACE_SECONDS", "end_child", "heed_suspension", "leave_if_suspended", "wait_for_tasks"]

GRACE_SECONDS = 120.0
"""What is in flight may take as long as one call by default; then it is given up."""

_SUSPENDED = "Suspended"
_LOOK_SECONDS = 0.5


@contextmanager
def heed_suspension(tell_done: Callable[[], str]) -> Iterator[None]:
    """End the block soon after its flow run is suspended, by `Pause`; its state then says ``tell_done()``."""
    ended = threading.Event()
    thread = threading.Thread(target=_stop_when_asked, args=(_context(), ended), name="tapir-suspension", daemon=True)
    thread.start()
    try:
        yield
    except Pause:
        _say_suspended(_context(), tell_done())
        raise
    finally:
        ended.set()
        thread.join()


def leave_if_suspended() -> None:
    """Called by what waits for long in a flow.

    Raises:
        Pause: the flow run was suspended.
    """
    _context().flow_run_suspension_request.raise_if_requested()


def wait_for_tasks() -> None:
    """Wait for the tasks of this flow that are at work; those that have not begun never do."""
    context = FlowRunContext.get()
    if context is not None:
        context.task_runner.cancel_all()  # type: ignore[attr-defined]  # our flows have a ThreadPoolTaskRunner


def end_child() -> None:
    """Called when `Pause` leaves a flow: end a child flow run with its parent."""
    context = _context()
    if context.flow_run is not None and context.flow_run.parent_task_run_id is not None:
        message = "Suspended with the flow run that it is part of; Retry or Resume of that one goes on in a new one."
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(context.flow_run.id, Cancelled(message=message), force=True)


def _stop_when_asked(context: FlowRunContext, ended: threading.Event) -> None:
    while not ended.wait(_LOOK_SECONDS):
        if context.flow_run_suspension_request.is_requested():
            stop_all()
            if not ended.wait(GRACE_SECONDS):
                abort_all()
            return


def _say_suspended(context: FlowRunContext, done: str) -> None:
    assert context.flow_run is not None
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(context.flow_run.id).state
        # Resumed meanwhile: what it says now is true.
        if state is None or state.name != _SUSPENDED:
            return
        until = state.state_details.pause_timeout
        limit = (
            f" until {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC; after that, Retry does the same" if until else ""
        )
        message = f"Suspended, and everything received is stored. {done} Resume goes on from there{limit}."
        client.set_flow_run_state(context.flow_run.id, state.model_copy(update={"message": message}), force=True)


def _context() -> FlowRunContext:
    context = FlowRunContext.get()
    assert context is not None, "called in a flow"
    return context
