"""Waiting for what other threads, processes and servers do in their own time."""

import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Found", "wait_until"]

Found = TypeVar("Found")
"""What a look gives: nothing, or something false, until its time has come."""


def wait_until(
    look: Callable[[], Found],
    *,
    seconds: float,
    every: float = 0.1,
    told: str | Callable[[], str] = "it never came",
    alive: "subprocess.Popen[Any] | None" = None,
) -> Found:
    """What ``look``, asked ``every`` so many seconds, gives once that is true.

    Fails after ``seconds``, or when ``alive`` ends before, with what is ``told`` of it.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()):
        ended = alive is not None and alive.poll() is not None
        if ended or time.monotonic() >= deadline:
            why = f"process {alive.pid} ended before" if alive and ended else f"after {seconds:g} s"
            raise AssertionError(f"{why}: {told() if callable(told) else told}")
        time.sleep(every)
    return found
