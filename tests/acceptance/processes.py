"""An asker in a process of its own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.harness.processes import REPOSITORY

DEADLINE_SECONDS = 300


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
            return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=errors, text=True)

    def run(self, **settings: float) -> list[tuple[str, str]]:
        """Run it to its end; gives its rows."""
        with self.start(**settings) as process:
            process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 0, (self.folder / "asker.err").read_text()[-3000:]
        return [(status, text) for status, text in json.loads((self.folder / "rows.json").read_text())]
