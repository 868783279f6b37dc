"""Commands and other processes that tests start: how to name and kill them, and who of them is left."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

__all__ = ["REPOSITORY", "free_port", "kill", "left_over", "overrides", "tapir"]

REPOSITORY = Path(__file__).parents[2]


def tapir(*words: str) -> list[str]:
    """The command line of this checkout."""
    return [sys.executable, "-m", "flows.cli", *words]


def overrides(settings: Mapping[str, str]) -> list[str]:
    """Fields of a configuration with their values, as words of a command."""
    return [word for field, value in settings.items() for word in ("--set", f"{field}={value}")]


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
