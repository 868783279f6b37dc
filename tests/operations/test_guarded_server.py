"""`tapir up` behind a password, with CSRF tokens: every command and the workers enter, and nobody else does.

The judge's key is a Prefect Secret block that the work pool hands to flow runs; it reaches the provider and no file.
"""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tapir_core.calls.fakes import FakeProvider, Text
from tests.acceptance.leaks import ArgumentWatch, find_leaks
from tests.flows.commands.test_up import MISSING, ROOT, Console, make_run_with_gaps
from tests.listening import listening, open_to_others

pytestmark = pytest.mark.operations

PASSWORD = "admin:pa%s#s word/1"
KEY = "sk-operations/judge+0123456789abcdef"
ENTRY = {"PREFECT_API_AUTH_STRING": PASSWORD}
GUARD = {"PREFECT_SERVER_API_AUTH_STRING": PASSWORD, "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true"}

HAND_KEY = """
import sys
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate

Secret(value=sys.stdin.read()).save("judge-key")
with get_client(sync_client=True) as client:
    template = client.read_work_pool("tapir-cpu").base_job_template
    template["variables"]["properties"]["env"]["default"] = {"JUDGE_KEY": "{{ prefect.blocks.secret.judge-key }}"}
    client.update_work_pool("tapir-cpu", WorkPoolUpdate(base_job_template=template))
"""

RUN = """
import sys
from prefect.deployments import run_deployment

state = run_deployment("retry-judge/retry-judge", parameters={"run": sys.argv[1]}, timeout=180, poll_interval=1).state
print(state.type.value, state.message)
"""


class Guarded(Console):
    """The command line, and Python with Prefect, of who has the password."""

    given = ENTRY
    """What is exported, unless a command is given something else."""

    def do(
        self, *command: str, given: dict[str, str] | None = None, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), **(self.given if given is None else given)}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, input=text)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "flows.cli", *words, "--root", str(self.root)]

    def tapir(self, *words: str, given: dict[str, str] | None = None) -> str:
        done = self.do(*self.command(*words), given=given)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def python(self, program: str, *words: str, text: str = "") -> str:
        api = {"PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api", "PREFECT_HOME": str(self.home.parent / "python")}
        done = self.do(sys.executable, "-c", program, *words, given={**self.given, **api}, text=text)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self, path: str, body: bytes | None = None, **headers: str) -> int:
        """Of a page, for a stranger."""
        headers = {"Content-Type": "application/json", **headers}
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
            with urllib.request.urlopen(request, timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code


def examine(console: Guarded, **given: str) -> dict[str, dict[str, str]]:
    """The rows of `tapir doctor` that look at the server."""
    rows = json.loads(console.do(*console.command("doctor", "--json"), given=given).stdout)["findings"]
    parts = ("Prefect server", "work pools", "deployments", "workers", "automation")
    return {row["part"]: row for row in rows if row["part"] in parts}


def test_a_guarded_server_serves_who_has_the_password_and_a_secret_block_reaches_the_provider_alone(tmp_path):
    (tmp_path / "home").mkdir()
    console, keys = Guarded(tmp_path / "runs", tmp_path / "home"), set()

    def judge(call):
        keys.add(call.headers["Authorization"])
        return Text("Scores: [[4, 7]]")

    with FakeProvider(judge) as provider, ArgumentWatch() as watch:
        run = make_run_with_gaps(console.root, tmp_path / "backbone", provider, api_key_env="JUDGE_KEY")
        up = console.command("up", "--port", str(console.port))
        locked_out = console.do(*up, given=GUARD)
        assert locked_out.returncode == 1
        assert "export both" in locked_out.stderr
        try:
            console.tapir(*up[3:-2], given={**ENTRY, **GUARD})
            assert console.status("/api/health") == 200
            assert console.status("/api/work_pools/tapir-cpu") == 401
            token = {"Authorization": "Basic YWRtaW46cGElcyNzIHdvcmQvMQ=="}
            assert console.status("/api/deployments/filter", b"{}", **token) == 403, "no CSRF token"
            family = console.family()
            heard = listening(family)
            assert len(heard) > 0
            assert open_to_others(heard) == []
            workers = [each for each in family if "worker" in each.cmdline()]
            assert workers
            assert not any(GUARD.keys() & each.environ().keys() for each in workers)

            assert "applied deployment" in console.tapir("deploy")
            elsewhere = {**ENTRY, "PREFECT_API_URL": f"http://127.0.0.1:{console.port}/api"}
            fresh = console.do(*console.command("deploy")[:-1], str(tmp_path / "fresh"), given=elsewhere)
            assert fresh.returncode == 0, fresh.stderr
            assert {row["level"] for row in examine(console, **ENTRY).values()} == {"ok"}
            refused = examine(console)["Prefect server"]
            assert (refused["level"], "PREFECT_API_AUTH_STRING" in refused["found"]) == ("fault", True)
            no_entry = console.do(*console.command("deploy"), given={})
            assert (no_entry.returncode, "wants another password" in no_entry.stderr) == (1, True)

            console.python(HAND_KEY, text=KEY)
            ended = console.python(RUN, run.ref.name)
            assert ended.startswith("COMPLETED"), ended
            assert f"{MISSING} verdicts missing before, 0 now" in ended
            again = console.tapir("retry-judge", run.ref.name, given={**ENTRY, "JUDGE_KEY": KEY})
            assert "Nothing to ask again" in again
            listed = shutil.copy(ROOT / "configs/backbones.toml", tmp_path)
            assert "told" in console.tapir("backbone", "add", "another", str(tmp_path / "backbone"), "--file", listed)
        finally:
            console.tapir("down")
    assert keys == {f"Bearer {KEY}"}
    assert find_leaks(tmp_path, [KEY, PASSWORD]) == []
    assert watch.find_leaks([KEY, PASSWORD]) == []
    assert list(console.home.iterdir()) == []
