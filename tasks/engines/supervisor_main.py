"""The two small processes between us and a child: whoever dies, nothing that the child started is left.

Started as a script with the standard library only: ``python -I -S supervisor_main.py LIFE_FD REPORT_FD COMMAND…``.

::

    driver ──life──▶ guard ──orders──▶ keeper ──▶ child ──▶ all it starts, in whatever session

Guard and keeper are both *subreapers*: what loses its parent below them becomes their child. One order travels down
the pipes, a line with the seconds of grace: end everything; end of file is that order too.

- the driver dies: the guard sees end of file, closes ``orders``; the keeper ends everything below it;
- the guard dies: the keeper sees end of file on ``orders``;
- the keeper dies: everything below it becomes the guard's, which ends it;
- the child dies: the keeper ends what it left and reports the exit code.

Ending is SIGTERM to the child, then to what is left, then SIGKILL, and is over when no process is left. What the child
left in its folder for temporary files (sockets, half-written files) goes with it.
Linux only (``prctl``, ``/proc``). Killing guard and keeper in the same instant, and nothing else, is not covered.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from types import FrameType

__all__ = ["descendants_of"]

ORPHAN_GRACE_SECONDS = 3.0
"""What a child gets to stop by itself when its driver is gone: a resumed run may already want its memory."""

LEFTOVER_GRACE_SECONDS = 2.0
"""What processes that outlive their child get before SIGKILL."""

_POLL_SECONDS = 0.02
_PR_SET_CHILD_SUBREAPER = 36


def descendants_of(root: int) -> list[int]:
    """Process ids below ``root``, children before grandchildren, as ``/proc`` shows them now."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
                # The command name in parentheses may itself hold blanks and parentheses.
                parent = int(stat.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    level = children.get(root, [])
    while level:
        found += level
        level = [grandchild for pid in level for grandchild in children.get(pid, [])]
    return found


@dataclass
class Watched:
    """The one process that a guard or keeper started, and its exit code once it has ended."""

    pid: int
    code: int | None = None

    def reap(self) -> bool:
        """Collect every child that has ended; true when none is left, and so no descendant either."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return False
                if pid == self.pid:
                    self.code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            return True

    def end(self, grace_seconds: float) -> None:
        """End this process, then all that is left below us; returns when nothing is."""
        if self.code is None:
            _send(self.pid, signal.SIGTERM)
            self._wait(grace_seconds)
        deadline = time.monotonic() + min(grace_seconds, LEFTOVER_GRACE_SECONDS)
        asked: set[int] = set()
        while not self.reap():
            late = time.monotonic() >= deadline
            for pid in descendants_of(os.getpid()):
                if late or pid not in asked:
                    _send(pid, signal.SIGKILL if late else signal.SIGTERM)
                    asked.add(pid)
            time.sleep(_POLL_SECONDS)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.reap() and self.code is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def main() -> None:
    """Be the guard; fork the keeper."""
    life, report = int(sys.argv[1]), int(sys.argv[2])
    for descriptor in (life, report):
        os.set_inheritable(descriptor, False)
    driver = os.getppid()
    # Before the fork: a keeper that died at once would else leave its child to someone above us.
    _become_subreaper()
    orders, forward = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(life)
        os.close(forward)
        keep(orders, report, sys.argv[3:])
    else:
        os.close(orders)
        os.close(report)
        guard(Watched(pid), life, forward, driver)


def guard(keeper: Watched, life: int, forward: int, driver: int) -> None:
    """Hand the driver's order on until it or the keeper is gone."""
    wakeup = _wake_on_child_end()
    sources = [life, wakeup]
    while not keeper.reap() and keeper.code is None:
        # A driver that forked without exec left a copy of the pipe behind: then only its death tells.
        ready = select.select(sources, [], [], 1.0)[0]
        order = os.read(life, 4096) if life in ready else b""
        if order:
            with contextlib.suppress(BrokenPipeError):
                os.write(forward, order)
        elif life in sources and (life in ready or os.getppid() != driver):
            sources.remove(life)
            os.close(forward)
        _drain(wakeup, ready)
    keeper.end(LEFTOVER_GRACE_SECONDS)


def keep(orders: int, report: int, command: list[str]) -> None:
    """Start the command, wait for its end or the order to end it, end what it left, report its exit code."""
    _become_subreaper()
    wakeup = _wake_on_child_end()
    scratch = tempfile.mkdtemp(prefix="tapir-")
    try:
        # A session of its own: a child that signals its process group must not hit its keeper.
        pid = os.posix_spawnp(
            command[0],
            command,
            {**os.environ, "TMPDIR": scratch},
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD],
        )
    except OSError as exc:
        shutil.rmtree(scratch)
        os.write(report, f"failed {exc.strerror}\n".encode())
        return
    child = Watched(pid)
    os.write(report, f"started {os.getpid()} {pid}\n".encode())
    grace_seconds: float | None = None
    while not child.reap() and child.code is None and grace_seconds is None:
        ready = select.select([orders, wakeup], [], [])[0]
        if orders in ready:
            order = os.read(orders, 4096).split()
            grace_seconds = float(order[0]) if order else ORPHAN_GRACE_SECONDS
        _drain(wakeup, ready)
    child.end(LEFTOVER_GRACE_SECONDS if grace_seconds is None else grace_seconds)
    shutil.rmtree(scratch, ignore_errors=True)
    with contextlib.suppress(BrokenPipeError):
        os.write(report, f"exit {child.code}\n".encode())


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _wake_on_child_end() -> int:
    """A descriptor that becomes readable whenever a child ends."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _ignore)
    return readable


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler must exist, or SIGCHLD does not reach the wakeup descriptor."""


def _drain(wakeup: int, ready: list[int]) -> None:
    if wakeup in ready:
        os.read(wakeup, 4096)


if __name__ == "__main__":
    main()
