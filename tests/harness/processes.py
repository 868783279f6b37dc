"""Commands and other processes that tests start: how to name, await and kill them, and who of them is left."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

__all__ = ["REPOSITORY", "Found", "free_port", "kill", "left_over", "tapir", "wait_until"]

REPOSITORY = Path(__file__).parents[2]

Found = TypeVar("Found")
"""What a look gives: nothing, or something false, until its time has come."""


def tapir(*words: str) -> list[str]:
    """The command line of this checkout."""
    return [sys.executable, "-m", "flows.cli", *words]


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


def kill(process: "subprocess.Popen[Any]", *, whole_tree: bool = False) -> list[psutil.Process]:
    """``kill -9`` a process at work, or it and all below it; gives all that was below it."""
    assert process.poll() is None, "it ended before the kill"
    below: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    for each in below if whole_tree else []:
        if each.is_running():
            os.kill(each.pid, signal.SIGKILL)
    process.wait()
    return below


def left_over(family: list[psutil.Process], *, seconds: float = 30) -> list[str]:
    """Who of ``family`` still lives after a while."""
    _, alive = psutil.wait_procs(family, timeout=seconds)
    return [f"{process.pid} {process.name()}" for process in alive if process.status() != psutil.STATUS_ZOMBIE]
