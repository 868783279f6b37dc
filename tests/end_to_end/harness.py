"""Real runs for the end-to-end tests: the command line in a process of its own, watched, killed and asked again."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tapir_core.run_folder import RunFolder, RunRef

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 600


@dataclass
class Project:
    """A run root with a configuration for a tiny student."""

    root: Path
    student: Path
    settings: dict[str, str] = field(default_factory=dict)
    prefect_api: str = ""
    """The Prefect server that its runs report to; empty lets each bring its own."""
    output: str = ""
    """What the first run printed."""

    def command(self, name: str, *more: str) -> list[str]:
        base = {"run.root": str(self.root), "student.backbone": str(self.student), **self.settings}
        overrides = [word for field, value in base.items() for word in ("--set", f"{field}={value}")]
        return [*tapir("run", "configs/test.toml", "--name", name), *overrides, *more]

    def run(self, name: str, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(name, *more),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            env={**os.environ, "PREFECT_API_URL": self.prefect_api},
        )
        assert not check or done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def start(self, name: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{name}.driver.log").open("ab") as log:
            return subprocess.Popen(self.command(name), cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def folder(self, name: str) -> RunFolder:
        return RunFolder(RunRef(str(self.root), name))

    def stored(self, role: str) -> int:
        """Answers that the store holds for a role."""
        store = self.root / ".tapir" / "store.sqlite"
        if not store.exists():
            return 0
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'answers'").fetchall()
            if not tables:
                return 0
            return int(connection.execute("SELECT count(*) FROM answers WHERE role = ?", (role,)).fetchone()[0])


def tapir(*words: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *words]


def wait_until(
    condition: Callable[[], bool],
    *,
    process: subprocess.Popen[bytes] | None = None,
    seconds: float = DEADLINE_SECONDS,
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the moment to kill never came"
        assert process is None or process.poll() is None, "the run ended before the moment to kill came"
        time.sleep(0.05)


def kill(driver: subprocess.Popen[bytes], *, whole_tree: bool) -> list[psutil.Process]:
    """``kill -9`` the driver, or it and everything below it; gives back all that may be left over."""
    family = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGKILL)
    for process in family if whole_tree else []:
        if process.is_running():
            os.kill(process.pid, signal.SIGKILL)
    driver.wait()
    return family


def left_over(family: list[psutil.Process], *, seconds: float = 30) -> list[str]:
    """Which of ``family`` still live after a while."""
    _, alive = psutil.wait_procs(family, timeout=seconds)
    return [f"{process.pid} {process.name()}" for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def answered_twice(log: Path) -> int:
    """Answers of the stand-in beyond the first to the same request."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    answered = Counter(line["sha256"] for line in lines if line["status"] == 200)
    return sum(count - 1 for count in answered.values())
