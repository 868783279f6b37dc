"""Ctrl-C and SIGTERM while a run works: task threads must end too, and an interrupt reaches the main thread only.

Signals are left to Prefect: it asks whether the handler of SIGTERM is its own before it calls a flow run cancelled.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.exceptions import Pause

from flows.running.suspension import end_child, wait_for_tasks
from tasks.runtime import abort_all

__all__ = ["prompt_interrupts"]


@contextmanager
def prompt_interrupts() -> Iterator[None]:
    """End the work of every thread when the block is interrupted; every flow needs it, or it waits for its tasks.

    Calls in flight are given up, what was received is committed, a student server that starts is ended. A flow that is
    suspended is in no such hurry.
    """
    try:
        yield
    except Pause:
        wait_for_tasks()
        end_child()
        raise
    except BaseException as raised:
        # KeyboardInterrupt, or what Prefect raises for SIGTERM; an error of the work itself is no interrupt.
        if not isinstance(raised, Exception):
            abort_all()
            # Before what they use is closed: a task that comes to it later would open it anew, and ask.
            wait_for_tasks()
        raise
