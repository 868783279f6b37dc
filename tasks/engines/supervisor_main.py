"""The two small processes between us and a child: whoever dies, nothing that the child started is left.

Started as a script that loads little: ``python -I supervisor_main.py LINE_FD COMMAND…``.

::

    driver ──▶ guard ──pipe──▶ keeper ──▶ child ──▶ all it starts, in whatever session
       ▲───────────line──────────▲

Guard and keeper are both *subreapers*: what loses its parent below them becomes their child. Each collects its
children until it has none left. A thread of the keeper waits for the one order on the line, the seconds of grace: end
everything; end of file is that order too, on the line or on the pipe that the guard holds open. The keeper reports on
the line.

- the driver dies: the keeper sees end of file on the line, or the guard sees the death and closes the pipe;
- the guard dies: the keeper sees end of file on the pipe;
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

import psutil

_ORPHAN_GRACE_SECONDS = 3.0
"""What a child gets to stop by itself when its driver is gone: a resumed run may already want its memory."""

_LEFTOVER_GRACE_SECONDS = 2.0
"""What processes that outlive their child get before SIGKILL."""

_POLL_SECONDS = 0.02
_LOOK_SECONDS = 1.0
_PR_SET_CHILD_SUBREAPER = 36


class _Watched:
    """The one process that a guard or keeper started, with everything below it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = threading.Event()
        self._asked: set[psutil.Process] = set()
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
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            self._ended.wait(grace_seconds)
        self._end_rest(min(grace_seconds, _LEFTOVER_GRACE_SECONDS))

    def _end_rest(self, grace_seconds: float) -> None:
        """SIGTERM to all that is below us, SIGKILL to what is left after the grace; returns when nothing is."""
        deadline = time.monotonic() + grace_seconds
        while below := set(psutil.Process().children(recursive=True)):
            late = time.monotonic() >= deadline
            for process in below if late else below - self._asked:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL if late else signal.SIGTERM)
            self._asked |= below
            time.sleep(_POLL_SECONDS)


def main() -> None:
    """Be the guard; fork the keeper."""
    line, driver = int(sys.argv[1]), os.getppid()
    os.set_inheritable(line, False)
    # Inherited as ignored, it would hide how a child ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Before the fork: a keeper that died at once would else leave its child to someone above us.
    _become_subreaper()
    guarded, guarding = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(guarding)
        _keep(line, guarded, sys.argv[2:])
    else:
        os.close(guarded)
        threading.Thread(target=_watch_driver, args=(driver, guarding), daemon=True).start()
        _Watched(pid).wait()


def _watch_driver(driver: int, guarding: int) -> None:
    """Close the pipe when the driver is gone."""
    # A driver that forked without exec left a copy of the line's end behind: then only its death tells.
    while os.getppid() == driver:
        time.sleep(_LOOK_SECONDS)
    os.close(guarding)


def _keep(line: int, guarded: int, command: list[str]) -> None:
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
        os.write(line, f"failed {exc.strerror}\n".encode())
        return
    child = _Watched(pid)
    os.write(line, f"started {pid}\n".encode())
    threading.Thread(target=_obey, args=(line, guarded, child), daemon=True).start()
    code = child.wait()
    shutil.rmtree(scratch, ignore_errors=True)
    with contextlib.suppress(ConnectionError):
        os.write(line, f"exit {code}\n".encode())


def _obey(line: int, guarded: int, child: _Watched) -> None:
    """Wait for the order to end the child, and end it."""
    # `select.select` takes no descriptor above 1023, and the line keeps the number that the driver gave it.
    waiting = select.poll()
    for each in (line, guarded):
        waiting.register(each, select.POLLIN)
    first, _ = waiting.poll()[0]
    order = b""
    with contextlib.suppress(ConnectionResetError):  # from a driver that died before it read what was reported
        order = os.read(first, 4096)
    child.end(float(order.split()[0]) if order else _ORPHAN_GRACE_SECONDS)


def _become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


if __name__ == "__main__":
    main()
