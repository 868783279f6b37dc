"""The real command line on the smallest configuration, up to where a student's engine would be needed."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.harness.processes import REPOSITORY, overrides, tapir
from tests.students import make_checkpoint

LAST_STAGE = "teach"
"""Labels and teacher answers need no student."""


@dataclass(frozen=True)
class Project:
    """A run root, with a folder in it that passes for a backbone as long as nothing loads it."""

    folder: Path
    settings: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """Folder of all runs."""
        return self.folder / "runs"

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `tapir` in a process group of its own, as a terminal does."""
        environment = {**os.environ, "PREFECT_API_URL": "", **self.environment}
        return subprocess.Popen(
            tapir(*words),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def start_run(self) -> subprocess.Popen[str]:
        """Start the run, or go on with it."""
        return self.start("run", *self.configured(), "--until", LAST_STAGE)

    def configured(self) -> Sequence[str]:
        """The configuration with everything that differs here."""
        settings = {
            "run.root": str(self.root),
            "student.backbone": str(make_checkpoint(self.folder / "backbone")),
            "student.engine.python": sys.executable,
            **self.settings,
        }
        return ["configs/test.toml", *overrides(settings)]


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """``process`` and all below it that live now."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
