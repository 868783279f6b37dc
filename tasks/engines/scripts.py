"""Scripts of this folder, run by an interpreter of another environment: a job as JSON goes in, a result comes out.

They are supervised children with nothing of our keys, and import nothing of ours. What they print goes to a log file.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir_core.evaluation.benchmark import ScriptFailed
from tasks.engines.keys import keyless_environment
from tasks.engines.supervisor import start_child

Json = Any

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 60


@dataclass(frozen=True, slots=True)
class ScriptRunner:
    """Runs scripts; `tapir_core.evaluation.benchmark.Scripts` says what of."""

    log_file: Callable[[str], Path]
    """Name of a log → its file."""
    check_stop: Callable[[], None]
    """Called while a child works; what it raises ends the child."""

    def run(self, script: str, job: Json, *, python: Path, environment: Mapping[str, str], log: str) -> Json:
        """What ``script`` makes of ``job``, with the interpreter ``python``.

        Raises:
            ScriptFailed: it ended without a result.
            EngineError: the interpreter cannot be started.
            Stopped: the run is to stop; the child was ended.
        """
        log_path = self.log_file(log)
        with tempfile.TemporaryDirectory(prefix="tapir-script-") as folder:
            given, result = Path(folder, "job.json"), Path(folder, "result.json")
            given.write_text(json.dumps(job))
            # Isolated: the modules beside the script are ours, and its environment holds nothing of us.
            main = Path(__file__).with_name(f"{script}.py")
            argv = [str(python.absolute()), "-I", str(main), str(given), str(result)]
            env = {**keyless_environment(), **environment}
            with start_child(argv, env=env, log_path=log_path, name=log) as child:
                while (code := child.poll()) is None:
                    self.check_stop()
                    time.sleep(_POLL_SECONDS)
            if code or not result.exists():
                raise ScriptFailed(code, child.output(), log_path)
            return json.loads(result.read_text())

    def look(self, code: str, *, python: Path, environment: Mapping[str, str]) -> str | None:
        """What a line of Python prints there, within a minute; nothing where it fails."""
        env = {**keyless_environment(), **environment}
        command = [str(python.absolute()), "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LOOK_SECONDS, env=env)
        return None if done.returncode else done.stdout.strip()
