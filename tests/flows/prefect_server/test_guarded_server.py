"""`tapir up` behind a password, with CSRF tokens: every command and the workers enter, and nobody else does.

The judge's key is a Prefect Secret block that the work pool hands to flow runs; it reaches the provider and no file.
"""

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.acceptance.leaks import arguments_with, find_leaks
from tests.doubles.provider import FakeProvider, Text
from tests.harness.processes import REPOSITORY
from tests.harness.standing_root import StandingRoot
from tests.harness.watches import ArgumentWatch, listening, open_to_others
from tests.run_with_gaps import MISSING, make_run_with_gaps

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


@pytest.fixture
def root(tmp_path, lay_prefect_database):
    """Who types its commands has the password."""
    with StandingRoot(tmp_path, exported=ENTRY) as root:
        lay_prefect_database(tmp_path / "runs")
        yield root


def python(root: StandingRoot, program: str, *words: str, text: str = "") -> str:
    """What a program prints that uses Prefect with the password."""
    api = {"PREFECT_API_URL": f"{root.address}/api", "PREFECT_HOME": str(root.folder / "python")}
    env, command = {**root.environment(), **api}, [sys.executable, "-c", program, *words]
    done = subprocess.run(command, cwd=root.folder, env=env, capture_output=True, text=True, timeout=300, input=text)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def status(root: StandingRoot, path: str, body: bytes | None = None, **headers: str) -> int:
    """Of a page, for a stranger."""
    request = urllib.request.Request(f"{root.address}{path}", body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def examine(root: StandingRoot, **exported: str) -> dict[str, dict[str, str]]:
    """The rows of `tapir doctor` that look at the server."""
    rows = json.loads(root.call("doctor", "--json", exported=exported).stdout)["findings"]
    parts = ("Prefect server", "work pools", "deployments", "workers", "automation")
    return {row["part"]: row for row in rows if row["part"] in parts}


@pytest.mark.operations
def test_a_guarded_server_serves_who_has_the_password_and_a_secret_block_reaches_the_provider_alone(
    root, tmp_path, monkeypatch
):
    # To build the run's verdicts; what `StandingRoot` starts has none of this process's variables.
    monkeypatch.setenv("JUDGE_KEY", "of the test alone")
    keys = set()

    def judge(call):
        keys.add(call.headers["Authorization"])
        return Text("Scores: [[4, 7]]")

    with FakeProvider(judge) as provider, ArgumentWatch() as watch:
        run = make_run_with_gaps(root.root, tmp_path / "backbone", provider, api_key_env="JUDGE_KEY")
        assert "export both" in root.tapir("up", "--port", str(root.port), code=1, exported=GUARD)
        root.up(exported={**ENTRY, **GUARD})
        assert status(root, "/api/health") == 200
        assert status(root, "/api/work_pools/tapir-cpu") == 401
        token = {"Authorization": "Basic YWRtaW46cGElcyNzIHdvcmQvMQ=="}
        assert status(root, "/api/deployments/filter", b"{}", **token) == 403, "no CSRF token"
        family = root.family()
        heard = listening(family)
        assert len(heard) > 0
        assert open_to_others(heard) == []
        workers = [each for each in family if "worker" in each.cmdline()]
        assert workers
        assert not any(GUARD.keys() & each.environ().keys() for each in workers)

        elsewhere = {**ENTRY, "PREFECT_API_URL": f"{root.address}/api"}
        assert "applied deployment" in root.tapir("deploy", "--root", str(tmp_path / "fresh"), exported=elsewhere)
        assert {row["level"] for row in examine(root, **ENTRY).values()} == {"ok"}
        refused = examine(root)["Prefect server"]
        assert (refused["level"], "PREFECT_API_AUTH_STRING" in refused["found"]) == ("fault", True)
        assert "wants another password" in root.tapir("deploy", code=1, exported={})

        python(root, HAND_KEY, text=KEY)
        ended = python(root, RUN, run.ref.name)
        assert ended.startswith("COMPLETED"), ended
        assert f"{MISSING} verdicts missing before, 0 now" in ended
        again = root.tapir("retry-judge", run.ref.name, exported={**ENTRY, "JUDGE_KEY": KEY})
        assert "Nothing to ask again" in again
        listed = shutil.copy(REPOSITORY / "configs/backbones.toml", tmp_path)
        assert "told" in root.tapir("backbone", "add", "another", str(tmp_path / "backbone"), "--file", listed)
        root.down()
    assert keys == {f"Bearer {KEY}"}
    assert find_leaks(tmp_path, [KEY, PASSWORD]) == []
    assert arguments_with(watch.seen, [KEY, PASSWORD]) == []
    assert list(root.home.iterdir()) == []
