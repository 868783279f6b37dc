"""Children that need not import anew: each is a copy of one process that has imported the command line.

A command spends most of its time on imports. What a child registers, patches or sets ends with it.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from tests.harness.processes import REPOSITORY

__all__ = ["Ended", "Forked"]

IMPORTED = ("flows.cli", "flows.commands.run", "flows.commands.evaluate", "flows.commands.diagnosis.command")
"""None of these imports Prefect, which has to be told first where its files go, or uses threads."""
COMMAND_LINE = "import flows.cli; flows.cli.main()"


class Ended(NamedTuple):
    """What a child left."""

    returncode: int
    stdout: str
    stderr: str


class Forked:
    """The process whose copies are the children; use it as a context manager."""

    def __enter__(self) -> "Forked":
        command = [sys.executable, "-m", "tests.harness.forked"]
        self._parent = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._parent.communicate()

    def tapir(self, *words: str, folder: Path = REPOSITORY, environment: Mapping[str, str] | None = None) -> Ended:
        """A command, given in ``folder``."""
        return self.python(COMMAND_LINE, *words, folder=folder, environment=environment)

    def python(
        self, program: str, *words: str, folder: Path = REPOSITORY, environment: Mapping[str, str] | None = None
    ) -> Ended:
        """A Python program; ``environment`` is added to today's."""
        asked = {"program": program, "words": words, "folder": str(folder), "environment": {**os.environ}}
        asked["environment"] |= environment or {}
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        print(json.dumps(asked), file=self._parent.stdin, flush=True)
        return Ended(*json.loads(self._parent.stdout.readline()))


def main() -> None:
    """Fork once for each line that is read, and write what came of it."""
    for name in IMPORTED:
        import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                _become(**asked)
            _, status = os.waitpid(child, 0)
            said = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
        print(json.dumps([os.waitstatus_to_exitcode(status), *said]), flush=True)


def _become(program: str, words: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    code: Any = 1
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None  # remembered from the parent's TMPDIR
        sys.argv = ["tapir", *words]
        exec(program, {"__name__": "__main__"})
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
