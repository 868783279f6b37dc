"""Real runs for the end-to-end tests: the command line in a process of its own, run to its end or begun."""

import os
import sqlite3
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tapir_core.run_folder import RunFolder, RunRef
from tests.harness.processes import REPOSITORY, overrides, tapir

__all__ = ["DEADLINE_SECONDS", "Project"]

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
        return [*tapir("run", "configs/test.toml", "--name", name), *overrides(base), *more]

    def run(self, name: str, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(name, *more),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            env={**os.environ, "PREFECT_API_URL": self.prefect_api},
        )
        assert not check or done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def start(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{name}.driver.log").open("ab") as log:
            return subprocess.Popen(
                self.command(name, *more), cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
            )

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
