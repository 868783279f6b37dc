"""The two small processes between us and a child: whoever dies, nothing that the child started is left.

Started as a script with the standard library only: ``python -I -S supervisor_main.py LIFE_FD REPORT_FD COMMAND…``.

::

    driver ──life──▶ guard ──orders──▶ keeper ──▶ child ──▶ all it starts, in whatever session

Guard and keeper are both *subreapers*: what loses its parent below them becomes their child. Each collects its
children until it has none left; a thread beside it waits for the order. One order travels down the pipes, a line with
the seconds of grace: end everything; end of file is that order too.

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
import threading
import time

_ORPHAN_GRACE_SECONDS = 3.0
"""What a child gets to stop by itself when its driver is gone: a resumed run may already want its memory."""

_LEFTOVER_GRACE_SECONDS = 2.0
"""What processes that outlive their child get before SIGKILL."""

_POLL_SECONDS = 0.02
_LOOK_SECONDS = 1.0
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
    found = list(children.get(root, []))
    for pid in found:  # grows while it is read
        found += children.get(pid, [])
    return found


class _Watched:
    """The one process that a guard or keeper started, with everything below it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = threading.Event()
        self._asked: set[int] = set()
        """Processes that were sent SIGTERM."""

    def wait(self) -> int:
        """Collect what ends until nothing is left; what the process leaves is ended. Gives its exit code."""
        code = 0
        while True:
            try:
                pid, status = os.wait()
            except ChildProcessError:
                return code
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)
                self._ended.set()
                threading.Thread(target=self._end_rest, args=(_LEFTOVER_GRACE_SECONDS,), daemon=True).start()

    def end(self, grace_seconds: float) -> None:
        """End the process and then, if that is sooner than `wait` does, what it leaves."""
        if not self._ended.is_set():
            _send(self.pid, signal.SIGTERM)
            self._ended.wait(grace_seconds)
        self._end_rest(min(grace_seconds, _LEFTOVER_GRACE_SECONDS))

    def _end_rest(self, grace_seconds: float) -> None:
        """SIGTERM to all that is below us, SIGKILL to what is left after the grace; returns when nothing is."""
        deadline = time.monotonic() + grace_seconds
        while below := descendants_of(os.getpid()):
            late = time.monotonic() >= deadline
            for pid in below:
                if late or pid not in self._asked:
                    _send(pid, signal.SIGKILL if late else signal.SIGTERM)
                    self._asked.add(pid)
            time.sleep(_POLL_SECONDS)


def main() -> None:
    """Be the guard; fork the keeper."""
    life, report = int(sys.argv[1]), int(sys.argv[2])
    for descriptor in (life, report):
        os.set_inheritable(descriptor, False)
    driver = os.getppid()
    # Inherited as ignored, it would hide how a child ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Before the fork: a keeper that died at once would else leave its child to someone above us.
    _become_subreaper()
    orders, forward = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(life)
        os.close(forward)
        _keep(orders, report, sys.argv[3:])
    else:
        os.close(orders)
        os.close(report)
        threading.Thread(target=_hand_on, args=(life, forward, driver), daemon=True).start()
        _Watched(pid).wait()


def _hand_on(life: int, forward: int, driver: int) -> None:
    """Hand the driver's orders on until it is gone."""
    with os.fdopen(forward, "wb", buffering=0) as keeper, contextlib.suppress(BrokenPipeError):
        # A driver that forked without exec left a copy of the pipe behind: then only its death tells.
        while os.getppid() == driver:
            if select.select([life], [], [], _LOOK_SECONDS)[0]:
                order = os.read(life, 4096)
                if not order:
                    break
                keeper.write(order)


def _keep(orders: int, report: int, command: list[str]) -> None:
    """Start the command, wait for its end or the order to end it, end what it left, report its exit code."""
    _become_subreaper()
    scratch = tempfile.mkdtemp(prefix="tapir-")
    try:
        # A session of its own: a child that signals its process group must not hit its keeper.
        pid = os.posix_spawnp(
            command[0],
            command,
            {**os.environ, "TMPDIR": scratch},
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as exc:
        shutil.rmtree(scratch)
        os.write(report, f"failed {exc.strerror}\n".encode())
        return
    child = _Watched(pid)
    os.write(report, f"started {os.getpid()} {pid}\n".encode())
    threading.Thread(target=_obey, args=(orders, child), daemon=True).start()
    code = child.wait()
    shutil.rmtree(scratch, ignore_errors=True)
    with contextlib.suppress(BrokenPipeError):
        os.write(report, f"exit {code}\n".encode())


def _obey(orders: int, child: _Watched) -> None:
    """Wait for the order to end the child, and end it."""
    order = os.read(orders, 4096).split()
    child.end(float(order[0]) if order else _ORPHAN_GRACE_SECONDS)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


if __name__ == "__main__":
    main()
