"""The project's own Prefect flow, and what each flow of ours has about it while it runs.

JSON results, names that read, children's logs. An interrupt reaches the main thread only, and ends the threads of tasks
too; signals are left to Prefect, which asks whether the handler of SIGTERM is its own before it calls a flow run
cancelled. *Suspend* from the UI: Prefect raises its `Pause` at the next boundary of flow and tasks, and here is what it
cannot know, that requests which wait to be sent are left and tasks at work need their engines to the end. The state of
a flow run that ended badly says what a person can do.

While it works, one progress artifact in Prefect's UI, changed in place, shows how far it is and what it spends. A
thread of its own shows it: a server that is away is neither waited for nor an error.

Limits: a batch that a Batch API works on is left `GRACE_SECONDS` after *Suspend*, and found again. The state
*Cancelled* is set when all of ours has ended; the server adds to it (deployments/automations.toml).
"""

import contextvars
import logging
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, states
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Pause

from flows.prefect_server.server import HURRY
from flows.server_away import outlast_server
from tapir_core.processes import beside
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks.artifacts import spend_artifact
from tasks.engines.logs import told_to
from tasks.runtime import current, runtimes

GO_ON = (
    "Retry goes on where it stopped, and so does a new start under the same name with the same fields, the budget too; "
    "what is stored is not asked again."
)

GRACE_SECONDS = 120.0
"""What is in flight may take as long as one call by default; then it is given up."""

_INTERRUPTED: set[UUID] = set()
"""Flow runs of this process that Ctrl-C ended, which Prefect counts as crashed."""

_LOOK_SECONDS = 0.5

_MOST_CARD_SECONDS = 60.0
"""Longest time between two looks at the progress; before, a hundredth of the time that has passed."""
_LAST_CARD_SECONDS = 3.0
"""For the last look, at the end of the flow run."""


def project_flow(name: str, *, run_name: str, child: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Prefect's flow with this project's settings. Parameters are checked by the configuration, not by Prefect.

    A ``child`` is begun anew with each start of its parent: what of it is done, the run folder knows, and Prefect would
    give back what an earlier child returned, also when stages of it are to be redone. It does so only where it has kept
    that.
    """

    def wrap(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def body(*args: Any, **kwargs: Any) -> Any:
            outlast_server()
            if not child:
                HURRY.clear()  # set by what was interrupted before it, in a notebook say
            log = get_run_logger().log
            with _prompt_interrupts(), told_to(log), nullcontext() if child else _warnings_in(log):
                return function(*args, **kwargs)

        return flow(
            name=name,
            flow_run_name=run_name,
            persist_result=not child,
            result_serializer="json",
            validate_parameters=False,
            on_failure=[tell_remedy],
            on_crashed=[tell_remedy],
        )(body)

    return wrap


@contextmanager
def heed_suspension(tell_done: Callable[[], str]) -> Iterator[None]:
    """End the block soon after its flow run is suspended, by `Pause`; its state then says ``tell_done()``."""
    context = _context()

    def stop_when_asked(ended: threading.Event) -> None:
        while not ended.wait(_LOOK_SECONDS):
            if context.flow_run_suspension_request.is_requested():
                for runtime in runtimes():
                    runtime.stop()
                if not ended.wait(GRACE_SECONDS):
                    _abort_all()
                return

    def words(state: State[Any]) -> str:
        until = state.state_details.pause_timeout
        limit = (
            f" until {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC; after that, Retry does the same" if until else ""
        )
        return f"Suspended, and everything received is stored. {tell_done()} Resume goes on from there{limit}."

    try:
        with beside("tapir-suspension", stop_when_asked):
            yield
    except Pause:
        _reword(context.flow_run, lambda state: state.name == "Suspended", words)
        raise


def leave_if_suspended() -> None:
    """Called by what waits for long in a flow.

    Raises:
        Pause: the flow run was suspended.
    """
    _context().flow_run_suspension_request.raise_if_requested()


def tell_remedy(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Add the way on to the state of a flow run that crashed, or failed by what the flow has not told itself."""
    told = state.is_failed() and not isinstance(state.result(raise_on_failure=False), BaseException)
    is_child, by_hand = flow_run.parent_task_run_id is not None, flow_run.id in _INTERRUPTED
    if told or (is_child and not by_hand):
        return
    # Without a deployment there is nothing to retry: a process of ours has started it, with this command.
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    remedy = GO_ON if flow_run.deployment_id is not None else f"`{command}` goes on where it stopped."
    said = f"{state.message or state.name}{'' if is_child else f' {remedy}'}"
    # Who gives Ctrl-C at a terminal has no crash.
    instead = {"type": StateType.CANCELLED, "name": "Interrupted"} if by_hand else {}
    _reword(flow_run, lambda now: now.type == state.type, lambda _: said, instead)


class _Warnings(logging.Handler):
    """Tells a flow run's log what our modules warn of, from whichever thread."""

    def __init__(self, log: Callable[[int, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._log, self._context = log, contextvars.copy_context()

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it."""
        self._context.copy().run(self._log, record.levelno, record.getMessage())


@contextmanager
def _warnings_in(log: Callable[[int, str], None]) -> Iterator[None]:
    loggers, handler = [logging.getLogger(name) for name in ("tapir_core", "tasks")], _Warnings(log)
    for each in loggers:
        each.addHandler(handler)
    try:
        yield
    finally:
        for each in loggers:
            each.removeHandler(handler)


@contextmanager
def _prompt_interrupts() -> Iterator[None]:
    """End the work of every thread when the block is interrupted; every flow needs it, or it waits for its tasks.

    Calls in flight are given up, what was received is committed, a student server that starts is ended. A flow that is
    suspended is in no such hurry.
    """
    try:
        yield
    except Exception:  # an error of the work itself is no interrupt
        raise
    except BaseException as raised:
        # `Pause`, KeyboardInterrupt, or what Prefect raises for SIGTERM.
        is_suspended, context = isinstance(raised, Pause), _context()
        if isinstance(raised, KeyboardInterrupt) and context.flow_run is not None:
            _INTERRUPTED.add(context.flow_run.id)
        if not is_suspended:
            HURRY.set()
            _abort_all()
        # Before what they use is closed: a task that comes to it later would open it anew, and ask. Those that have not
        # begun never do.
        context.task_runner.cancel_all()  # type: ignore[attr-defined]  # our flows have a ThreadPoolTaskRunner
        if is_suspended and context.flow_run is not None and context.flow_run.parent_task_run_id is not None:
            # Its parent begins it again when that goes on.
            message = "Suspended with the flow run that it is part of; Retry or Resume of that one goes on with it."
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(context.flow_run.id, states.Cancelled(message=message), force=True)
        raise


def _abort_all() -> None:
    """Make every call in flight and every server that starts give up, so that the threads waiting for them end."""
    for runtime in runtimes():
        runtime.abort()


def _reword(
    flow_run: FlowRun | None,
    stands: Callable[[State[Any]], bool],
    words: Callable[[State[Any]], str],
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Let the state of a flow run say ``words``, while it ``stands``: that of a later start says what is true now."""
    assert flow_run is not None
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run.id).state
        if state is not None and stands(state):
            said = state.model_copy(update={"message": words(state), **more})
            client.set_flow_run_state(flow_run.id, said, force=True)


def _context() -> FlowRunContext:
    context = FlowRunContext.get()
    assert context is not None, "called in a flow"
    return context


@contextmanager
def live_spend(
    ref: RunRef, stages: Sequence[StageAt], *, whole: bool = True, least_seconds: float = 5.0
) -> Iterator[None]:
    """Show the block's progress through ``stages`` in the flow run at work.

    ``whole``: the block is to do all of them. It is shown every ``least_seconds``, and less often in a long block.
    """
    show, all_done = spend_artifact(current(RunFolder(ref)), stages), False

    def follow(ended: threading.Event) -> None:
        began, is_last = time.monotonic(), False
        while not is_last:
            is_last = ended.wait(min(max(least_seconds, (time.monotonic() - began) / 100), _MOST_CARD_SECONDS))
            # Whatever keeps a look from being shown, a server or a store that is away, ends no run.
            with suppress(Exception):
                show(all_done)

    with beside("tapir-live-spend", follow, _LAST_CARD_SECONDS):
        yield
        all_done = whole
