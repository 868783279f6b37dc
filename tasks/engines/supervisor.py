"""Child processes that cannot outlive us: `start_child`, the `Child` it gives, and scripts for other interpreters.

Every engine (student server, trainer, …) starts through here. Between us and the child stand the two processes of
`supervisor_main.py`: when this process ends, also by ``kill -9``, everything that the child started is ended. Safe
to call from many threads; no `preexec_fn` and no parent-death signal, which fires when the *thread* ends.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from tapir_core.errors import ConfigError, EngineError
from tasks.engines import logs
from tasks.engines.keys import keyless_environment, offline_environment

SOURCES = Path(__file__).resolve().parents[2]
"""Where ``python -m tasks.…`` finds us."""

_POLL_SECONDS = 0.1


@dataclass(eq=False)
class Child(contextlib.AbstractContextManager["Child"]):
    """A supervised process and everything it starts. As a context manager it is ended on leaving.

    It counts as ended when nothing that it started is left, not when its first process is gone; when its guard was
    killed, `poll` waits for the keeper to say so.
    """

    log_path: Path
    log_start: int
    """Bytes of the log that others wrote before."""
    pid: int
    _guard: "subprocess.Popen[bytes]"
    _line: FileIO
    """Takes the order to end, gives what the keeper reports."""
    _returncode: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def poll(self) -> int | None:
        """The exit code (-n: ended by signal n) once nothing is left, else nothing; -9 if its keeper was killed."""
        return None if self._guard.poll() is None else self.wait()

    def wait(self) -> int:
        """Wait until nothing is left; the exit code as `poll` gives it."""
        self._guard.wait()
        with self._lock:
            if self._returncode is None:
                report = b""
                with contextlib.suppress(ConnectionResetError):  # where an order came too late to be read
                    report = self._line.readline()
                self._returncode = int(report.removeprefix(b"exit ") or -signal.SIGKILL)
                self._line.close()
            return self._returncode

    def terminate(self, grace_seconds: float = 10.0) -> int:
        """SIGTERM to the child, after ``grace_seconds`` to all that is left, then SIGKILL; returns when nothing is."""
        # The supervisors may have ended since: then there is nothing left to end.
        with self._lock, contextlib.suppress(ConnectionError):
            if self._returncode is None:
                self._line.write(f"{grace_seconds}\n".encode())
        return self.wait()

    def output(self) -> str:
        """What it wrote to its log so far."""
        return self.log_path.read_bytes()[self.log_start :].decode("utf-8", "replace")

    def __exit__(self, *_: object) -> None:
        self.terminate()


def start_child(
    argv: Sequence[str], *, env: Mapping[str, str], log_path: Path, cwd: Path | None = None, name: str
) -> Child:
    """Start ``argv`` under supervision; its output is appended to ``log_path``.

    Args:
        argv: The command; looked up in ``PATH`` of ``env`` unless it holds a slash.
        env: The child's whole environment.
        log_path: Gets stdout and stderr; its folder is made if need be.
        cwd: The child's working folder.
        name: What the error calls it.

    Raises:
        EngineError: the command cannot be started.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    ours, theirs = socket.socketpair()
    with log_path.open("ab") as log, theirs:
        log_start = log.tell()
        # `pass_fds` opens it for this process only: another thread's child cannot hold our line open.
        guard = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("supervisor_main.py")), str(theirs.fileno()), *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=cwd,
            env=dict(env),
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    line = FileIO(ours.detach(), "r+")
    verb, _, value = line.readline().decode().strip().partition(" ")
    if verb != "started":
        line.close()
        guard.wait()
        raise EngineError(f"{name} could not be started: {argv[0]}: {value or 'no supervisor'}; see {log_path}")
    return Child(log_path, log_start, int(value), guard, line)


def run_module(
    module: str, *words: object, log_path: Path, name: str, check_stop: Callable[[], None] = lambda: None
) -> None:
    """Run a module of ours in an offline child, and wait for it; ``check_stop`` may raise meanwhile.

    Raises:
        EngineError: it failed.
    """
    argv = [sys.executable, "-m", module, *map(str, words)]
    with start_child(argv, env=offline_environment(), log_path=log_path, cwd=SOURCES, name=name) as child:
        while (code := child.poll()) is None:
            check_stop()
            time.sleep(_POLL_SECONDS)
    if code:
        raise EngineError(f"{name} ended with exit code {code}; see {log_path}:\n{logs.last_words(child.output())}")


@dataclass(frozen=True, slots=True)
class ScriptRunner:
    """Runs scripts of this folder in other environments: a job as JSON goes in, a result comes out.

    They get nothing of our keys, and import nothing of ours; what they print goes to a log file. The methods are those
    of `tapir_core.evaluation.benchmark.Scripts`.
    """

    log_file: Callable[[str], Path] = lambda _: Path(os.devnull)
    """Name of a log → its file."""
    check_stop: Callable[[], None] = lambda: None
    """Called while a child works; what it raises ends the child."""

    def run(self, script: str, job: Any, *, python: Path, environment: Mapping[str, str], log: str) -> Any:
        """What ``script`` makes of ``job``, with the interpreter ``python``.

        Raises:
            ScriptFailed: it ended without a result.
            EngineError: the interpreter cannot be started.
            Stopped: the run is to stop; the child was ended.
        """
        # Not at the top: it takes the benchmarks along, and every process that starts another one loads this.
        from tapir_core.evaluation.benchmark import ScriptFailed

        log_path = self.log_file(log)
        with tempfile.TemporaryDirectory(prefix="tapir-script-") as folder:
            given, result = Path(folder, "job.json"), Path(folder, "result.json")
            given.write_text(json.dumps(job))
            # Isolated: the modules beside the script are ours, and its environment holds nothing of us.
            argv = [*map(str, (python.absolute(), "-I", Path(__file__).with_name(f"{script}.py"), given, result))]
            with start_child(argv, env={**keyless_environment(), **environment}, log_path=log_path, name=log) as child:
                while (code := child.poll()) is None:
                    self.check_stop()
                    time.sleep(_POLL_SECONDS)
            if code or not result.exists():
                raise ScriptFailed(code, child.output(), log_path)
            return json.loads(result.read_text())

    def look(self, code: str, *, python: Path, environment: Mapping[str, str]) -> str | None:
        """What a line of Python prints there, within a minute; nothing where it fails."""
        done = subprocess.run(
            [str(python.absolute()), "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            env={**keyless_environment(), **environment},
        )
        return None if done.returncode else done.stdout.strip()


@contextlib.contextmanager
def reserved_port(host: str) -> Iterator[int]:
    """A free port of ``host``, kept from everyone but a child that names it (both reuse addresses)."""
    with socket.socket() as reserved:  # bound, and never listening
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reserved.bind((host, 0))
        except OSError as exc:
            raise ConfigError(f"no server can listen at {host!r}: {exc}") from exc
        yield int(reserved.getsockname()[1])
