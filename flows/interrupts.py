"""Ctrl-C and SIGTERM while a run works: task threads must end too, and an interrupt reaches the main thread only.

Calls in flight are given up, what was received is committed, a student server that starts is ended; then whatever
handled the signal before does so.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tasks.runtime import abort_all

__all__ = ["prompt_interrupts"]


@contextmanager
def prompt_interrupts() -> Iterator[None]:
    """Make interrupts end the work of every thread for the block; each flow needs its own: Prefect replaces ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=abort_all, name="tapir-abort", daemon=True).start()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        raise KeyboardInterrupt

    for each in before:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
