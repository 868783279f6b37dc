"""Runs one side of `calls.py` in its own environment against a server of its own, and measures it."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from calls_child import Job
from calls_measure import Usage, Watch

HERE = Path(__file__).parent
PEERS = ("curator", "distilabel", "data-designer")
SIDE_SECONDS = 900.0
"""A side that takes longer is ended and reported."""
LOG_LINES = 15


@dataclass(frozen=True)
class Run:
    """One side's answers to all rows."""

    version: str
    """Of the package that answered."""
    rows: int
    seconds: float
    usage: Usage
    requests: int
    """That the server saw."""
    most_at_once: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.rows / self.seconds

    @property
    def cpu_per_thousand(self) -> float:
        """Processor seconds of the side for 1,000 rows."""
        return self.usage.cpu_seconds / self.rows * 1000


class SideFailedError(Exception):
    """Raised when a side does not answer every row, with the end of what it said."""


def run_side(name: str, job: Job, server: dict[str, Any]) -> Run:
    """Let a side answer ``job``, whose address and folder are filled in here.

    Raises:
        SideFailedError: its environment is missing, it ended with an error or too late, or it lost rows.
    """
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder, _server(server) as provider:
        base_url = provider.stdout.readline().strip()
        there = replace(job, base_url=base_url, folder=str(Path(folder) / "work"))
        result, usage = _watch_side(name, there, Path(folder))
        provider.stdin.close()
        seen = json.loads(provider.stdout.readline())
    if result["answered"] != job.rows:
        raise SideFailedError(f"{name} answered {result['answered']} of {job.rows} rows")
    return Run(result["version"], job.rows, result["seconds"], usage, seen["requests"], seen["most_at_once"])


def python_of(name: str) -> Path:
    """The interpreter that a side runs in.

    Raises:
        SideFailedError: its environment was not built.
    """
    if name not in PEERS:
        return Path(sys.executable)
    environment = HERE.parent / f".venv-bench-{name}"
    if not list(environment.glob("built-*.sha256")):
        raise SideFailedError(f"{environment.name} is not built: `make bench-calls` builds it and says what hinders it")
    return environment / "bin" / "python"


def _watch_side(name: str, job: Job, folder: Path) -> tuple[dict[str, Any], Usage]:
    Path(job.folder).mkdir()
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    argv = [str(python_of(name)), str(HERE / f"calls_{name.replace('-', '_')}.py"), str(folder / "job.json")]
    env = {**os.environ, "HOME": str(folder)}
    with (folder / "log").open("w") as log, _child(argv, env=env, stderr=log, cwd=job.folder) as side:
        timer = threading.Timer(SIDE_SECONDS, lambda: os.killpg(side.pid, 9))
        timer.start()
        try:
            _expect(side, "ready", folder)
            watch = Watch(side.pid)
            _go_on(side)
            _expect(side, "done", folder)
            usage = watch.stop()
            _go_on(side)
            result = json.loads(side.stdout.readline())
        finally:
            timer.cancel()
    return result, usage


@contextmanager
def _server(settings: dict[str, Any]) -> "Iterator[subprocess.Popen[str]]":
    with _child([sys.executable, str(HERE / "calls_server.py"), json.dumps(settings)]) as server:
        yield server


@contextmanager
def _child(argv: list[str], **options: Any) -> "Iterator[subprocess.Popen[str]]":
    """A process with pipes and a session of its own; the session ends with the block."""
    child = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, **options
    )
    try:
        yield child
        child.wait(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, 9)
        child.wait()


def _expect(side: "subprocess.Popen[str]", word: str, folder: Path) -> None:
    said = side.stdout.readline().strip()
    if said != word:
        lines = (folder / "log").read_text(errors="replace").splitlines()[-LOG_LINES:]
        raise SideFailedError(f"ended before it was {word} (exit code {side.wait()}):\n" + "\n".join(lines))


def _go_on(side: "subprocess.Popen[str]") -> None:
    side.stdin.write("\n")
    side.stdin.flush()
