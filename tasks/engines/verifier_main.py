"""Scores answers by a function that is not trusted to end, to stay small or to return what it should.

A script: ``python -I verifier_main.py JOB RESULT``. The job is `module`, `function`, `path` (folders of modules),
`seconds`, `memory` (bytes) and `rows` of (instruction, answer, reference); the result is `marks`, a pair (score, why
there is none) for each row, or a `problem` where the function cannot be had.

This process forks a worker, which imports the module, hands it a row, and waits for the mark as long as a row may take.
A worker that is late, dies or starts many processes is ended with all that it started; so is one that a row leaves
something running in. The next row gets another worker. Both are *subreapers*: what loses its parent below them becomes
their child, so that nothing gets lost.

Limits: of the worker and each of its processes, address space, processor time, size of files; the number of processes
(the kernel does not hold root to it, so they are counted as well). The network is not blocked, and what the user may
read can be read. Linux only.
"""

import contextlib
import ctypes
import importlib
import json
import math
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

_IMPORT_SECONDS = 60.0
_LOOK_SECONDS = 0.1
_MOST_PROCESSES = 64
"""Processes that one row may have at a time."""
_MOST_MORE = 1024
"""Processes and threads that the user may have beside all that there are when a worker starts."""
_FILE_BYTES = 64 * 2**20
_LONGEST_SAID = 300
_PR_SET_CHILD_SUBREAPER = 36

Mark = tuple[float | None, str | None]
"""A score, or why there is none: its kind, and more behind a colon."""


class _EndedError(Exception):
    """Raised when a worker is of no more use; says why its row has no score."""


def _score(job: dict[str, Any]) -> dict[str, Any]:
    """The result: with as many workers, one after another, as it takes."""
    rows, marks = job["rows"], list[Mark]()
    while True:
        with contextlib.closing(_Worker(job)) as worker:
            _, problem, _ = worker.ask(None, _IMPORT_SECONDS)
            if problem:
                return {"problem": problem}
            is_clean = True
            while is_clean and len(marks) < len(rows):
                score, reason, is_clean = worker.ask(rows[len(marks)], job["seconds"])
                marks.append((score, reason))
        if len(marks) == len(rows):
            return {"marks": marks}


class _Worker:
    """The process that has imported the function."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._line, theirs = socket.socketpair()
        self._line.settimeout(job["seconds"])
        self._pid = os.fork()
        if self._pid == 0:
            self._line.close()
            _work(theirs, job)
        theirs.close()

    def ask(self, row: list[Any] | None, seconds: float) -> tuple[float | None, str | None, bool]:
        """Score of a row, why there is none, and whether the worker is still of use; waits for at most ``seconds``.

        Without a row: why the function cannot be had, if it cannot.
        """
        try:
            if row is not None:
                self._line.sendall(json.dumps(row).encode() + b"\n")
            return self._receive(seconds)
        except (OSError, _EndedError) as error:
            return None, str(error), False

    def _receive(self, seconds: float) -> tuple[float | None, str | None, bool]:
        """A line of the worker; raises _EndedError when nothing of the kind comes."""
        deadline, said = time.monotonic() + seconds, b""
        while not said.endswith(b"\n"):
            if select.select([self._line], [], [], min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))[0]:
                came = self._line.recv(65536)
                said += came
                if came:
                    continue
            self._look(late=time.monotonic() >= deadline, seconds=seconds)
        try:
            score, reason, is_clean = json.loads(said)
        except (ValueError, TypeError):
            raise _EndedError("error: it wrote where only scores are written") from None
        return score, reason, is_clean

    def _look(self, *, late: bool, seconds: float) -> None:
        # Without collecting it: until `close` its number belongs to it, and to its group.
        ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None:
            raise _EndedError(f"died: {'exit code' if ended.si_code == os.CLD_EXITED else 'signal'} {ended.si_status}")
        if late:
            raise _EndedError(f"timeout: no score within {seconds:g} s")
        if len(psutil.Process().children(recursive=True)) > _MOST_PROCESSES:
            raise _EndedError(f"processes: more than {_MOST_PROCESSES} at a time")

    def close(self) -> None:
        """End the worker and all that it started; returns when nothing is left."""
        self._line.close()
        # Of its own group at once: one by one, processes that fork would be ahead of us.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                for process in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.01)


def _work(line: socket.socket, job: dict[str, Any]) -> None:
    """Be the worker, to the end."""
    try:
        os.setsid()
        _become_subreaper()
        _confine(job["memory"])
        lines, own = line.makefile("rwb", buffering=0), os.getpid()
        function, problem = _load(job)
        lines.write(_reply(None, problem))
        while asked := lines.readline():
            _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + job["seconds"] * (os.cpu_count() or 1)) + 1)
            score, reason = _mark(function, *json.loads(asked))
            if os.getpid() != own:
                break  # a process that the function forked, and that came back as if it were the worker
            lines.write(_reply(score, reason))
    finally:
        os._exit(0)


def _reply(score: float | None, reason: str | None) -> bytes:
    return json.dumps([score, reason, _has_no_children()]).encode() + b"\n"


def _load(job: dict[str, Any]) -> tuple[Callable[..., Any], str | None]:
    """The function, and why it cannot be had."""
    sys.path[:] = job["path"]
    try:
        function = getattr(importlib.import_module(job["module"]), job["function"])
    except BaseException as error:  # a module may do anything when it is imported, end its process too
        return _mark, _said(error)
    return function, None if callable(function) else f"{job['function']} is no function"


def _mark(function: Callable[..., Any], *row: str | None) -> Mark:
    """The score of a row; what the function raises, or returns beside a score, costs it that score."""
    try:
        found = function(*row)
        if found is None:
            return None, "none"
        score = math.nan if isinstance(found, str | bytes) else float(found)
        return (score, None) if 0 <= score <= 1 else (None, f"no_score: {found!r}"[:_LONGEST_SAID])
    except MemoryError as error:
        return None, f"memory: {_said(error)}"
    except BaseException as error:  # a function may raise anything, and `sys.exit` is one of it
        return None, f"error: {_said(error)}"


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # of an exception's own making
        text = ""
    return f"{type(error).__name__}: {text}"[:_LONGEST_SAID]


def _confine(memory: int) -> None:
    """Its own limits and working folder; what it prints goes nowhere."""
    running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_NPROC, running + _MOST_MORE),
        (resource.RLIMIT_CORE, 0),
    ):
        _limit(kind, most)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.chdir(tempfile.mkdtemp())


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _has_no_children() -> bool:
    """Collects those that ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


if __name__ == "__main__":
    _become_subreaper()
    Path(sys.argv[2]).write_text(json.dumps(_score(json.loads(Path(sys.argv[1]).read_text()))))
