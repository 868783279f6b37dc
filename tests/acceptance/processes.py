"""The stand-in and an asker in processes of their own, and what the stand-in's log says of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 300


@dataclass(frozen=True)
class Standin:
    """A stand-in that can be killed."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def lines(self) -> list[dict[str, Any]]:
        """One for each request so far, whole ones only."""
        text = self.log.read_text() if self.log.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def answered(self) -> Counter[str]:
        """Digest of each request that was answered or refused → how often."""
        return Counter(line["sha256"] for line in self.lines() if line["outcome"] in {"answered", "refused"})

    def answered_again(self) -> int:
        """Answers beyond the first to the same request."""
        return sum(count - 1 for count in self.answered().values())

    def faults(self) -> Counter[str]:
        """Requests that the server failed itself, by fault."""
        return Counter(line["fault"] for line in self.lines() if line["outcome"] == "failed")


@contextmanager
def serve_standin(folder: Path, *, faults: str = "", latency_ms: int = 0, port: int = 0) -> Iterator[Standin]:
    """A stand-in that logs to ``folder``; its log goes on where an earlier one's ended."""
    port_file, log = folder / "port.txt", folder / "standin.jsonl"
    port_file.unlink(missing_ok=True)
    words = ["--port", str(port), "--port-file", str(port_file), "--log", str(log), "--latency-ms", str(latency_ms)]
    command = [sys.executable, "-m", "tapir_core.standin.server", *words, "--faults", faults]
    with (folder / "standin.out").open("ab") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
    try:
        wait_until(port_file.exists, alive=process)
        yield Standin(process, int(port_file.read_text()), log)
    finally:
        process.terminate()
        process.wait(timeout=30)


@dataclass(frozen=True)
class Asker:
    """How `tests.acceptance.asker` is started against one store."""

    folder: Path
    what: str
    base_url: str
    concurrency: int

    def start(self, **settings: float) -> subprocess.Popen[str]:
        """Start it; it says ``asking`` when the first call may be made."""
        out = self.folder / "rows.json"
        out.unlink(missing_ok=True)
        words = ["--store", f"sqlite:///{self.folder / 'store.sqlite'}", "--base-url", self.base_url, "--out", str(out)]
        words += ["--concurrency", str(self.concurrency)]
        words += [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        command = [sys.executable, "-m", "tests.acceptance.asker", self.what, *words]
        with (self.folder / "asker.err").open("ab") as errors:
            return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)

    def run(self, **settings: float) -> list[tuple[str, str]]:
        """Run it to its end; gives its rows."""
        with self.start(**settings) as process:
            process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 0, (self.folder / "asker.err").read_text()[-3000:]
        return [(status, text) for status, text in json.loads((self.folder / "rows.json").read_text())]


def kill(process: subprocess.Popen[Any]) -> None:
    """``kill -9``; fails when the process had ended before."""
    assert process.poll() is None, "it ended before the kill"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition: Any, *, alive: subprocess.Popen[Any]) -> None:
    """Wait for ``condition()``; fails when ``alive`` ends before."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the moment never came"
        assert alive.poll() is None, f"process {alive.pid} ended before the moment came"
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
