"""`tapir up`: server, deployments and workers stay, do what the UI starts, come back, and end with `tapir down`."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir_core.run_folder import RunFolder
from tests.doubles.provider import FakeProvider, Text
from tests.harness.flow_run import FlowRun
from tests.harness.standing_root import StandingRoot
from tests.run_with_gaps import JUDGE, MISSING, make_run_with_gaps
from tests.waiting import wait_until


@pytest.fixture
def root(tmp_path: Path) -> Iterator[StandingRoot]:
    with StandingRoot(tmp_path, root=str(tmp_path / "runs"), patience_seconds=90) as root:
        yield root


def gave_a_sign_of_life(root: StandingRoot, flow_run: FlowRun) -> bool:
    """Whether the server got what the automation for killed workers watches for."""
    heartbeat = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
    ours = {"prefect.resource.id": "prefect.tag.tapir", "prefect.resource.role": "tag"}
    return any(
        each["resource"]["prefect.resource.id"].endswith(flow_run.id) and ours in each["related"]
        for each in root.ask("/events/filter", heartbeat)["events"]
    )


@pytest.mark.operations
def test_a_run_started_in_the_ui_is_done_by_a_worker_that_comes_back_and_nothing_is_left(
    root: StandingRoot, tmp_path: Path
) -> None:
    with FakeProvider(lambda call: Text("Scores: [[4, 7]]")) as judge:
        run = make_run_with_gaps(root.root, tmp_path / "backbone", judge)
        first = root.up()
        assert "applied deployment retry-judge/retry-judge" in first
        with urllib.request.urlopen(f"{root.address}/ui-settings", timeout=30) as settings:
            assert json.load(settings)["api_url"] == f"{root.address}/api", "the pages find the API"
        stood = set(root.family())

        again = root.up()
        assert root.address in again
        assert "applied" not in again
        assert stood <= set(root.family())

        root.worker("tapir-cpu").kill()
        flow_run = root.start("retry-judge", run=run.ref.name)
        state = flow_run.wait_for()
        assert state.type == "COMPLETED", state
        assert f"judge (round 1): {MISSING} verdicts missing before, 0 now" in state.message
        # Events are sent in batches.
        wait_until(lambda: gave_a_sign_of_life(root, flow_run), seconds=10, told="it gave no sign of life")
        manifest = RunFolder(run.ref).manifest(JUDGE)
        assert manifest is not None
        assert manifest.accepted_missing == {}
        ended = root.down(within_seconds=10)
    assert "ended" in ended
    assert "no server" in root.tapir("down", "--root", root.root)
    assert list(root.home.iterdir()) == []
