"""`tapir up` for a run root of its own, as a person keeps it: workers with real engines, a stand-in beside them."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tapir_core.run_folder import RunFolder, RunRef
from tasks.engines.supervisor import Child, start_child

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 1200
"""For a run with real engines on a slow machine."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], told: str, seconds: float = RUN_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s: {told}"
        time.sleep(1)


class StandingRoot:
    """`tapir up` while the ``with`` block runs, in a folder that has the presets and the student's environment."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "runs"
        self.address = f"http://127.0.0.1:{free_port()}"

    def __enter__(self) -> Self:
        (self.folder / "home").mkdir()
        for name in ("configs", ".venv-vllm"):
            (self.folder / name).symlink_to(ROOT / name)
        self.tapir("up", "--port", self.address.rpartition(":")[2])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.tapir("down")

    def tapir(self, *words: str) -> str:
        foreign = ("PREFECT_", "TAPIR_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        env["HOME"] = str(self.folder / "home")
        command = [sys.executable, "-m", "flows.cli", *words]
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ask(self, path: str, body: object = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/api{path}", content)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def run(self, name: str) -> RunFolder:
        return RunFolder(RunRef(str(self.root), name))

    def make_students(self, count: int) -> list[str]:
        """Tiny backbones of different weights, as paths in the working folder."""
        names = [f"tiny-{seed}" for seed in range(1, count + 1)]
        for seed, name in enumerate(names, start=1):
            command = [sys.executable, "-m", "tasks.engines.tiny_student", str(self.folder / name), str(seed)]
            subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        return names


class StandinProcess:
    """A stand-in of its own, as `tapir standin serve`, that can come back at the same address with other faults."""

    def __init__(self, folder: Path) -> None:
        self.log, self._port, self._output = folder / "requests.jsonl", free_port(), folder / "stand-in.log"
        self.base_url = f"http://127.0.0.1:{self._port}/v1"
        self._child: Child | None = None

    def start(self, faults: str = "") -> None:
        argv = [sys.executable, "-m", "tapir_core.standin.server", "--port", str(self._port), "--log", str(self.log)]
        env = dict(os.environ)
        self._child = start_child([*argv, "--faults", faults], env=env, log_path=self._output, name="stand-in")
        wait_until(self._listens, f"the stand-in does not listen; see {self._output}", seconds=60)

    def stop(self) -> None:
        if self._child is not None:
            self._child.terminate(grace_seconds=5)

    def endpoint(self, model: str) -> str:
        """A configuration's endpoint, in one line."""
        values = {"type": "openai", "base_url": self.base_url, "model": model, "identity": "outside", "api_key_env": ""}
        return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items()) + " }"

    def answered(self, *kinds: str) -> list[str]:
        """Digests of the requests that were answered, in their order; of all kinds when none is given."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        found = [line for line in lines if line["outcome"] == "answered"]
        return [line["sha256"] for line in found if not kinds or line["kind"] in kinds]

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0
