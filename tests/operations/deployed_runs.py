"""`tapir up` in a folder of its own, deployed runs on it that need no engine, and the buttons of its UI."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from flows.commands.prefect_process import is_healthy
from tapir_core.config.load import load_config
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks.ingredients import gather_ingredients
from tests.run_builder import build_run

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 240
CONCURRENCY = 4

CONFIG = """
[run]
name = "example"
root = "{root}"
rounds = 1
[data.pool]
type = "standin"
rows = 120
[data.heldout]
type = "standin"
dev = 20
test = 20
[student]
backbone = "{backbone}"
engine = {{ type = "endpoint", base_url = "{address}", model = "standin-teacher", concurrency = {concurrency} }}
[teacher.endpoint]
{endpoint}
model = "standin-teacher"
[judge.endpoint]
{endpoint}
model = "standin-judge"
[curriculum]
alpha_start = 0.5
target_shares = {{ Math = 0.5, Reasoning = 0.5 }}
[basic_tuning]
examples = 32
[rounds.default]
examples = 48
selection = {{ type = "hard_share", share = 0.3 }}
[calls]
concurrency = {concurrency}
rows_per_shard = 20
"""


class System:
    """`tapir up` for a root, and a stand-in outside it that is teacher, judge and student."""

    def __init__(self, folder: Path, address: str, log: Path) -> None:
        self.root, self.home, self.log = folder / "runs", folder / "home", log
        self.config = folder / "example.toml"
        self._backbone = folder / "backbone"
        self.home.mkdir()
        _make_backbone(self._backbone)
        endpoint = f'type = "openai"\nbase_url = "{address}"\nidentity = "outside-1"\napi_key_env = ""'
        values = {"root": self.root, "backbone": self._backbone, "address": address, "endpoint": endpoint}
        self.config.write_text(CONFIG.format(concurrency=CONCURRENCY, **values))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    def build(self, name: str, until: StageAt, *, seed: int) -> RunFolder:
        """A run that is done up to a stage, without any engine."""
        config = load_config(self.config, [f"run.seed={seed}"], name)
        return build_run(self.root, until=until, config=config, **gather_ingredients(config))

    def folder(self, name: str) -> RunFolder:
        return RunFolder(RunRef(str(self.root), name))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "flows.cli", *words]

    def environment(self) -> dict[str, str]:
        """A worker that looks for work often; every start of a flow run would wait 10 seconds otherwise."""
        values = {"PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        return {**values, "PREFECT_WORKER_QUERY_SECONDS": "2"}

    def tapir(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            self.command(*words), cwd=ROOT, env=self.environment(), capture_output=True, text=True, timeout=240
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def up(self) -> None:
        self.tapir("up", "--port", str(self.port), "--root", str(self.root))
        # Room for several runs: after a kill the next one would wait two minutes for the machine.
        self.ask("/v2/concurrency_limits/", {"name": f"distill-on-{socket.gethostname()}", "limit": 9})

    def down(self) -> None:
        self.tapir("down", "--root", str(self.root))

    def ask(self, path: str, body: object = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api{path}", content)
        request.add_header("Content-Type", "application/json")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                # Busy: what Prefect's own client asks again, too.
                if error.code != 503 or time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def arguments(self, name: str, *, until: str, seed: int) -> list[str]:
        """What `tapir run` is given for what `start` starts. Another seed has another pool, and asks anew."""
        return [str(self.config), "--name", name, "--until", until, "--set", f"run.seed={seed}"]

    def start(self, name: str, *, until: str, seed: int, overrides: Sequence[str] = ()) -> str:
        """Press *Run* of *distill*; gives the flow run's id."""
        found = self.ask("/deployments/name/distill/distill")
        settings = [f"run.seed={seed}", *overrides]
        parameters = {"run": name, "config_file": str(self.config), "until": until, "overrides": settings}
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        made = self.ask(f"/deployments/{found['id']}/create_flow_run", body)
        return str(made["id"])

    def press(self, flow_run: str, button: str) -> None:
        """Press a button of a flow run, with what the UI sends."""
        limit = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300))
        details = {"pause_timeout": limit, "pause_reschedule": True}
        states = {
            "suspend": {"type": "PAUSED", "name": "Suspended", "state_details": details},
            "cancel": {"type": "CANCELLING", "name": "Cancelling"},
            "retry": {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"},
        }
        if button == "resume":
            assert self.ask(f"/flow_runs/{flow_run}/resume", {})["status"] == "ACCEPT"
        else:
            self.set_state(flow_run, states[button])

    def set_state(self, flow_run: str, state: dict[str, Any]) -> None:
        answer = self.ask(f"/flow_runs/{flow_run}/set_state", {"state": state})
        assert answer["status"] == "ACCEPT", answer

    def state(self, flow_run: str) -> dict[str, Any]:
        state: dict[str, Any] = self.ask(f"/flow_runs/{flow_run}")["state"]
        return state

    def wait_for_state(self, flow_run: str, *names: str) -> dict[str, Any]:
        wait_until(lambda: self.state(flow_run)["name"] in names, lambda: f"{self.state(flow_run)}")
        return self.state(flow_run)

    def task_runs(self, flow_run: str) -> Counter[str]:
        """How many task runs of a flow run are in each state, by name of stage and state."""
        found = self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
        return Counter(f"{each['name'].split()[0]} {each['state_name']}" for each in found)

    def find_flow_runs(self, name: str) -> list[str]:
        """Ids of the flow runs of a name."""
        found = self.ask("/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return [str(each["id"]) for each in found]

    def flow_runs(self, name: str) -> list[str]:
        """The state of each flow run of a name."""
        found = self.ask("/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return [str(each["state_name"]) for each in found]

    def artifacts(self, prefix: str) -> list[str]:
        """Keys of the artifacts that begin so."""
        found = self.ask("/artifacts/filter", {"artifacts": {"key": {"like_": f"{prefix}%"}}})
        return [str(each["key"]) for each in found]

    def asked(self) -> list[str]:
        """Digest of each request that the stand-in has answered."""
        if not self.log.exists():
            return []
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line["sha256"] for line in lines if line["status"] == 200]

    def process_of(self, flow_run: str) -> psutil.Process:
        """The process that works on a flow run."""
        for each in self.family():
            with suppress(psutil.NoSuchProcess):
                if each.environ().get("PREFECT__FLOW_RUN_ID") == flow_run:
                    return each
        raise AssertionError(f"no process works on {flow_run}")

    def started_by(self, flow_run: str) -> list[psutil.Process]:
        """What the process of a flow run has started; nothing before it works."""
        with suppress(psutil.NoSuchProcess, AssertionError):
            return self.process_of(flow_run).children(recursive=True)
        return []

    def family(self) -> list[psutil.Process]:
        caretaker = self.caretaker()
        return [caretaker, *caretaker.children(recursive=True)]

    def caretaker(self) -> psutil.Process:
        return psutil.Process(json.loads((self.root / ".tapir/server.json").read_text())["pid"])

    def server(self) -> psutil.Process:
        return next(each for each in self.family() if each.cmdline()[3:5] == ["server", "start"])

    def worker(self) -> psutil.Process:
        words = ["worker", "start", "--pool", "tapir-cpu"]
        return next(each for each in self.family() if each.cmdline()[3:7] == words)

    def keep_server_away(self, seconds: float) -> None:
        """Kill the server; its caretaker starts it again only after so long."""
        caretaker, server = self.caretaker(), self.server()
        caretaker.send_signal(signal.SIGSTOP)
        try:
            server.kill()
            time.sleep(seconds)
        finally:
            caretaker.send_signal(signal.SIGCONT)
        wait_until(lambda: is_healthy(f"http://127.0.0.1:{self.port}/api"), lambda: "the server did not come back")


def wait_until(condition: Callable[[], bool], told: Callable[[], str] = lambda: "it never came") -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)


def _make_backbone(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
