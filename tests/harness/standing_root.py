"""A run root on which `tapir up` keeps server and workers: what is typed, what is pressed, and who does the work.

Everything happens in a folder of the test's own, with an empty home and nothing exported but what the test says::

    with StandingRoot(tmp_path) as root:
        root.up()
        run = root.start("distill", preset="test", run="first")
        assert run.wait_for("Completed", "Failed").name == "Completed"

Leaving the block ends what stands and fails if any process of the root is left. Of a test that fails, `said` is shown
(tests/conftest.py).
"""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from flows.prefect_server.server import is_healthy
from tapir_core.paths import CARETAKER_LOG, SERVER_RECORD
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.storage import on_this_machine
from tests.harness.flow_run import FlowRun
from tests.harness.processes import REPOSITORY, free_port, tapir
from tests.waiting import Found, wait_until

__all__ = ["StandingRoot"]

COMMAND_SECONDS = 180


class StandingRoot:
    """One root, the commands given for it, and what `tapir up` has started."""

    def __init__(
        self,
        folder: Path,
        *,
        root: str = "",
        exported: Mapping[str, str] | None = None,
        patience_seconds: float = 240,
    ) -> None:
        """Lay out the folder that commands are typed in: it has the presets.

        ``root`` is named to `tapir up`; without it the root is the folder's `runs`. ``patience_seconds`` is how long
        a flow run may take to come to the state that a test waits for.
        """
        self.folder, self.home, self.root = folder, folder / "home", root or str(folder / "runs")
        self.port, self.patience_seconds = free_port(), patience_seconds
        self.address = f"http://127.0.0.1:{self.port}"
        self._named = ("--root", root) if root else ()
        self._exported = dict(exported or {})
        self._begun: list[subprocess.Popen[bytes]] = []
        self.home.mkdir()
        (folder / "configs").symlink_to(REPOSITORY / "configs")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each in self._begun:
            if each.poll() is None:
                each.terminate()
                each.wait(COMMAND_SECONDS)
        if on_this_machine(self.root).exists(SERVER_RECORD):
            self.down()

    # What is typed.

    def up(self, *words: str, exported: Mapping[str, str] | None = None) -> str:
        """`tapir up`, which returns once server and workers are there; gives what it printed."""
        return self.tapir("up", "--port", str(self.port), *self._named, *words, exported=exported)

    def down(self, *, within_seconds: float = 30) -> str:
        """`tapir down`; gives what it printed. Fails if a process of the root outlives it for so long."""
        family = self.family()
        said = self.tapir("down", *self._named)
        assert psutil.wait_procs(family, timeout=within_seconds)[1] == []
        assert self.processes() == [], "processes that nobody of the family had started any more"
        return said

    def tapir(self, *words: str, code: int = 0, exported: Mapping[str, str] | None = None) -> str:
        """A command of the root; gives all that it printed, or its errors alone where it is to fail with ``code``."""
        done = self.call(*words, exported=exported)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout + done.stderr

    def call(self, *words: str, exported: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A command that ends as it likes; ``exported`` in place of what is exported otherwise."""
        return subprocess.run(
            tapir(*words),
            cwd=self.folder,
            env=self.environment(exported),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )

    def begin(self, *words: str) -> "subprocess.Popen[bytes]":
        """A command that goes on while the test does, at most; what it prints is among what `said` gives."""
        with (self._logs() / "command.log").open("ab") as log:
            process = subprocess.Popen(
                tapir(*words), cwd=self.folder, env=self.environment(), stdout=log, stderr=log, start_new_session=True
            )
        self._begun.append(process)
        return process

    def environment(self, exported: Mapping[str, str] | None = None) -> dict[str, str]:
        """That of the commands: this checkout's packages, a home of its own, and what is exported."""
        ground = {"PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONPATH": str(REPOSITORY)}
        return {**ground, **(self._exported if exported is None else exported)}

    def run(self, name: str) -> RunFolder:
        """The folder of a run of this root."""
        return RunFolder(RunRef(self.root, name))

    # What is pressed and seen in the UI.

    def start(self, flow: str, **parameters: Any) -> FlowRun:
        """Press *Run* of a flow's deployment."""
        deployment = self.ask(f"/deployments/name/{flow}/{flow}")["id"]
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return FlowRun(self, self.ask(f"/deployments/{deployment}/create_flow_run", body)["id"])

    def flow_runs(self, flow: str = "", *, name: str = "", tags: Sequence[str] = ()) -> list[FlowRun]:
        """The flow runs of a flow, of a name, with all of these tags; oldest first."""
        wanted = {"name": {"any_": [name]} if name else None, "tags": {"all_": list(tags)} if tags else None}
        chosen = {"flow_runs": wanted, "flows": {"name": {"any_": [flow]}} if flow else None}
        found = sorted(self.ask("/flow_runs/filter", chosen), key=lambda each: str(each["created"]))
        return [FlowRun(self, each["id"]) for each in found]

    def artifacts(self, prefix: str) -> list[str]:
        """Keys of the artifacts that begin so."""
        found = self.ask("/artifacts/filter", {"artifacts": {"key": {"like_": f"{prefix}%"}}})
        return [str(each["key"]) for each in found]

    def ask(self, path: str, body: object = None) -> Any:
        """What the server's API answers, to a POST where there is a body."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/api{path}", content)
        request.add_header("Content-Type", "application/json")
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                # Busy: what Prefect's own client asks again, too.
                if error.code != 503 or time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    # Who does the work.

    def caretaker(self) -> psutil.Process:
        """The process that `tapir up` leaves."""
        return psutil.Process(json.loads(on_this_machine(self.root).read_bytes(SERVER_RECORD))["pid"])

    def family(self) -> list[psutil.Process]:
        """The caretaker and all below it, parents first."""
        caretaker = self.caretaker()
        return [caretaker, *caretaker.children(recursive=True)]

    def processes(self) -> list[psutil.Process]:
        """Every process that names the root or has its home, whoever its parent is."""
        found = []
        for each in psutil.process_iter():
            with suppress(psutil.Error):
                ours = each.environ().get("HOME") == str(self.home) or self.root in command(each)
                if ours and each.pid != os.getpid():
                    found.append(each)
        return found

    def server(self) -> psutil.Process:
        """Prefect's."""
        return next(each for each in self.family() if each.cmdline()[3:5] == ["server", "start"])

    def worker(self, pool: str) -> psutil.Process:
        """The pool's first that lives."""
        return next(each for each in self.family() if _works_for(each, pool))

    def at_work(self, pool: str, words: str) -> list[psutil.Process]:
        """What a worker of the pool has started that has these words in its command; no supervisor of such a child."""
        found = []
        for each in self.family():
            with suppress(psutil.NoSuchProcess):
                told = command(each)
                if words in told and "supervisor_main" not in told:
                    found += [each] if any(_works_for(parent, pool) for parent in each.parents()) else []
        return found

    def kill_worker_above(self, process: psutil.Process) -> list[psutil.Process]:
        """``kill -9`` the worker that has started a process; gives all that was below it."""
        worker = next(each for each in process.parents() if "worker start --pool" in command(each))
        below: list[psutil.Process] = worker.children(recursive=True)
        worker.kill()
        return below

    def keep_server_away(self, seconds: float) -> None:
        """Kill the server; its caretaker starts it again only after so long."""
        caretaker, server = self.caretaker(), self.server()
        caretaker.send_signal(signal.SIGSTOP)
        try:
            server.kill()
            time.sleep(seconds)
        finally:
            caretaker.send_signal(signal.SIGCONT)
        self.wait_until(lambda: is_healthy(f"{self.address}/api"), "the server did not come back")

    def wait_until(
        self,
        look: Callable[[], Found],
        told: str | Callable[[], str] = "it never came",
        *,
        every: float = 0.1,
        alive: "subprocess.Popen[Any] | None" = None,
    ) -> Found:
        """`wait_until` with the root's patience; a failure shows the logs, too."""

        def both() -> str:
            return f"{told() if callable(told) else told}\n{self.said()}"

        return wait_until(look, seconds=self.patience_seconds, every=every, told=both, alive=alive)

    def said(self) -> str:
        """The end of each log of caretaker, server, workers and commands begun."""
        logs = sorted(self._logs().glob("*.log"))
        return "\n".join(f"--- {log}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)

    def _logs(self) -> Path:
        folder = on_this_machine(self.root).local(CARETAKER_LOG).parent
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def command(process: psutil.Process) -> str:
    """The words of a process's command; none of one that has ended."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def _works_for(process: psutil.Process, pool: str) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.cmdline()[3:7] == ["worker", "start", "--pool", pool])
    return False
