"""`tapir up`: server, deployments and workers stay, do what the UI starts, come back, and end with `tapir down`."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tapir_core.calls.fakes import FakeProvider, Text
from tapir_core.data.dataset import write_part
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.engines.backbone import checkpoint_digest
from tests.run_builder import build_run
from tests.run_config import make_config

ROOT = Path(__file__).parents[3]
JUDGE = StageAt("judge", 1)
MISSING = 7


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_run_with_gaps(
    root: Path | str, backbone: Path, judge: FakeProvider, *, api_key_env: str = "", **sections: object
) -> RunFolder:
    """A run that went on without some verdicts of its first round."""
    backbone.mkdir()
    (backbone / "config.json").write_text("{}")
    (backbone / "model.safetensors").write_bytes(b"weights")
    (backbone / "tokenizer.json").write_text("{}")
    (backbone / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    endpoint = {"type": "openai", "base_url": judge.base_url, "model": "m", "identity": "i", "api_key_env": api_key_env}
    config = make_config(root, student={"backbone": str(backbone)}, judge={"endpoint": endpoint}, **sections)
    run = build_run(root, until=JUDGE, config=config, backbone=checkpoint_digest(backbone))
    part = write_part(run.storage, JUDGE.folder, run.rows(JUDGE).head(-MISSING))
    run.seal(JUDGE, [part], accepted_missing={"server": MISSING})
    return run


class Console:
    """The command line, and the API as the UI uses it."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root, self.home, self.port = root, home, free_port()

    def tapir(self, *words: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        command = [sys.executable, "-m", "flows.cli", *words, "--root", str(self.root)]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def up(self) -> str:
        return self.tapir("up", "--port", str(self.port))

    def ask(self, path: str, body: object = None) -> dict:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", content)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def family(self) -> list[psutil.Process]:
        caretaker = psutil.Process(json.loads((self.root / ".tapir/server.json").read_text())["pid"])
        return [caretaker, *caretaker.children(recursive=True)]

    def worker(self, pool: str) -> psutil.Process:
        words = ["worker", "start", "--pool", pool]
        return next(each for each in self.family() if each.cmdline()[3:7] == words)


def wait_for_end(console: Console, flow_run: str) -> dict:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        state = console.ask(f"/api/flow_runs/{flow_run}")["state"]
        if state["type"] in ("COMPLETED", "FAILED", "CRASHED"):
            return state
        time.sleep(0.5)
    raise AssertionError(f"still {state}; {(console.root / '.tapir/logs/worker-tapir-cpu.log').read_text()}")


def gave_a_sign_of_life(console: Console, flow_run: str) -> bool:
    """Whether the server got what the automation for killed workers watches for; events are sent in batches."""
    heartbeat = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
    ours = {"prefect.resource.id": "prefect.tag.tapir", "prefect.resource.role": "tag"}
    for _ in range(20):
        events = console.ask("/api/events/filter", heartbeat)["events"]
        if any(
            each["resource"]["prefect.resource.id"].endswith(flow_run) and ours in each["related"] for each in events
        ):
            return True
        time.sleep(0.5)
    return False


@pytest.mark.slow
def test_a_run_started_in_the_ui_is_done_by_a_worker_that_comes_back_and_nothing_is_left(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    console = Console(tmp_path / "runs", home)
    with FakeProvider(lambda call: Text("Scores: [[4, 7]]")) as judge:
        run = make_run_with_gaps(console.root, tmp_path / "backbone", judge)
        try:
            first = console.up()
            assert "applied deployment retry-judge/retry-judge" in first
            settings = console.ask("/ui-settings")
            assert settings["api_url"] == f"http://127.0.0.1:{console.port}/api", "the pages find the API"
            deployment = console.ask("/api/deployments/name/retry-judge/retry-judge")
            stood = set(console.family())

            again = console.up()
            assert f"http://127.0.0.1:{console.port}" in again
            assert "applied" not in again
            assert stood <= set(console.family())

            console.worker("tapir-cpu").kill()
            start = {"parameters": {"run": run.ref.name}, "state": {"type": "SCHEDULED"}}
            flow_run = console.ask(f"/api/deployments/{deployment['id']}/create_flow_run", start)
            state = wait_for_end(console, flow_run["id"])
            assert state["type"] == "COMPLETED", state
            assert f"Round 1: {MISSING} verdicts missing before, 0 now" in state["message"]
            assert gave_a_sign_of_life(console, flow_run["id"])
            manifest = RunFolder(run.ref).manifest(JUDGE)
            assert manifest is not None
            assert manifest.accepted_missing == {}
            left = console.family()
        finally:
            ended = console.tapir("down")
    assert "ended" in ended
    assert psutil.wait_procs(left, timeout=10)[1] == []
    assert "no server" in console.tapir("down")
    assert list(home.iterdir()) == []
