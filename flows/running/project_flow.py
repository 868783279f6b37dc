"""The project's own Prefect flow, and what each flow of ours has about it while it runs.

JSON results, names that read, children's logs. An interrupt reaches the main thread only, and ends the threads of tasks
too; signals are left to Prefect, which asks whether the handler of SIGTERM is its own before it calls a flow run
cancelled. *Suspend* from the UI: Prefect raises its `Pause` at the next boundary of flow and tasks, and here is what it
cannot know, that requests which wait to be sent are left and tasks at work need their engines to the end. The state of
a flow run that ended badly says what a person can do.

Limits: a batch that a Batch API works on is left `GRACE_SECONDS` after *Suspend*, and found again. The state
*Cancelled* is set when all of ours has ended; the server adds to it (flows/prefect_server/deployments.py).
"""

import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from functools import wraps
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import Cancelled

from flows.server_away import outlast_server
from tasks.engines.logs import told_to
from tasks.runtime import abort_all, stop_all

GO_ON = (
    "Retry goes on where it stopped, and so does a new start under the same name; what is stored is not asked again."
)

GRACE_SECONDS = 120.0
"""What is in flight may take as long as one call by default; then it is given up."""

_SUSPENDED = "Suspended"
_LOOK_SECONDS = 0.5
_THIS_START = uuid4().hex


def project_flow(name: str, *, run_name: str, child: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Prefect's flow with this project's settings. Parameters are checked by the configuration, not by Prefect.

    A ``child`` is begun anew with each start of its parent: what of it is done, the run folder knows, and Prefect would
    give back what an earlier child returned, also when stages of it are to be redone.
    """

    def wrap(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def body(*args: Any, **kwargs: Any) -> Any:
            outlast_server()
            with _prompt_interrupts(), told_to(get_run_logger().log):
                return function(*args, **kwargs)

        if child:
            # By this and by its place among equals Prefect finds the child of an earlier start.
            body.__qualname__ = f"{function.__qualname__}_{_THIS_START}"
        return flow(
            name=name,
            flow_run_name=run_name,
            persist_result=True,
            result_serializer="json",
            validate_parameters=False,
            on_failure=[tell_remedy],
            on_crashed=[tell_remedy],
        )(body)

    return wrap


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


def tell_remedy(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Add the way on to the state of a flow run that crashed, or failed by what the flow has not told itself."""
    told = state.is_failed() and not isinstance(state.result(raise_on_failure=False), BaseException)
    if told or flow_run.parent_task_run_id is not None:
        return
    # Without a deployment there is nothing to retry: a process of ours has started it, with this command.
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    remedy = GO_ON if flow_run.deployment_id is not None else f"`{command}` goes on where it stopped."
    _reword(flow_run, lambda now: f"{state.message or state.name} {remedy}" if now.type == state.type else None)


@contextmanager
def _prompt_interrupts() -> Iterator[None]:
    """End the work of every thread when the block is interrupted; every flow needs it, or it waits for its tasks.

    Calls in flight are given up, what was received is committed, a student server that starts is ended. A flow that is
    suspended is in no such hurry.
    """
    try:
        yield
    except Pause:
        _wait_for_tasks()
        _end_child()
        raise
    except BaseException as raised:
        # KeyboardInterrupt, or what Prefect raises for SIGTERM; an error of the work itself is no interrupt.
        if not isinstance(raised, Exception):
            abort_all()
            # Before what they use is closed: a task that comes to it later would open it anew, and ask.
            _wait_for_tasks()
        raise


def _wait_for_tasks() -> None:
    """Wait for the tasks of this flow that are at work; those that have not begun never do."""
    context = FlowRunContext.get()
    if context is not None:
        context.task_runner.cancel_all()  # type: ignore[attr-defined]  # our flows have a ThreadPoolTaskRunner


def _end_child() -> None:
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
    def words(state: State[Any]) -> str | None:
        until = state.state_details.pause_timeout
        limit = (
            f" until {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC; after that, Retry does the same" if until else ""
        )
        told = f"Suspended, and everything received is stored. {done} Resume goes on from there{limit}."
        return told if state.name == _SUSPENDED else None

    assert context.flow_run is not None
    _reword(context.flow_run, words)


def _reword(flow_run: FlowRun, words: Callable[[State[Any]], str | None]) -> None:
    """Let the state of a flow run say ``words``; none for a state of a later start, which says what is true now."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run.id).state
        if state is not None and (message := words(state)) is not None:
            client.set_flow_run_state(flow_run.id, state.model_copy(update={"message": message}), force=True)


def _context() -> FlowRunContext:
    context = FlowRunContext.get()
    assert context is not None, "called in a flow"
    return context
