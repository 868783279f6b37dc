"""The live progress of a flow run: its figures, one artifact that changes in place, and no harm from a server away."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.project_flow import live_spend
from tapir_core.calls import LiveSpend, Spend
from tapir_core.config import BudgetConfig
from tapir_core.run_folder import RunFolder, RunRef, open_run
from tapir_core.stages import StageAt, plan
from tasks.artifacts import artifact_key, share_done, spend_card
from tasks.progress import StageProgress
from tasks.runtime import close_all, current
from tests import waiting
from tests.run_config import make_config

wait_until = partial(waiting.wait_until, seconds=30, every=0.05)

NOW = 1000.0
LABEL, TEACH = StageAt("label"), StageAt("teach")


def working(at: StageAt, *, rows: int = 100, done: int = 0, ended: bool = False) -> StageProgress:
    return StageProgress(at, 4, rows=rows, rows_done=done, started=NOW - 10, ended=NOW if ended else None)


def test_the_share_is_the_place_of_the_stage_that_began_last_and_the_part_of_it_that_is_done(tmp_path: Path) -> None:
    stages = list(plan(make_config(tmp_path)))
    label = stages.index(LABEL)
    assert share_done([], stages) == 0
    assert share_done([working(LABEL, done=50)], stages) == (label + 0.5) / len(stages)
    assert share_done([working(LABEL, done=50, ended=True)], stages) == (label + 1) / len(stages)
    wave = StageAt("wave_candidates", 1, 2)
    assert share_done([working(wave, done=50)], stages) == stages.index(StageAt("expand", 1)) / len(stages)
    assert share_done([working(stages[-1], ended=True)], stages) == 1
    assert share_done([working(TEACH)], [LABEL]) == 0, "a stage that the flow does on the way"


def test_the_card_tells_stages_at_work_with_their_time_left_and_the_spend_with_its_caps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.progress.time", SimpleNamespace(monotonic=lambda: NOW))
    live = LiveSpend(sent=70, stored=30, spent=Spend(70, 1000, 200, 0.5))
    paid = {
        "judge": Spend(requests=1500, prompt_tokens=3000, completion_tokens=1000, usd=2.5),
        "answer": Spend(requests=99, usd=99.0),
        "run": Spend(seconds=7200),
    }
    stages = [working(LABEL, done=100, ended=True), working(TEACH, done=40)]
    lines = spend_card(stages, live, paid, BudgetConfig(usd=10, hours=8)).splitlines()
    assert "| teach | 40 of 100 | 4.0 | 0 | 15 s |  |" in lines
    assert not any("label" in line for line in lines)
    assert "| Calls | 70 | 1,500 |  |" in lines
    assert "| From the store | 30 |  |  |" in lines
    assert "| Tokens | 1,200 | 4,000 |  |" in lines
    assert "| USD | 0.50 | 2.50 | 25.0 % of 10 |" in lines
    assert "| Hours of work |  | 2.00 | 25.0 % of 8 |" in lines


def artifacts(key: str) -> list[Artifact]:
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


@flow(name="shown", validate_parameters=False)
def shown(ref: RunRef, work: Callable[[], None]) -> None:
    with live_spend(ref, [LABEL, TEACH], least_seconds=0.05):
        work()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return open_run(make_config(tmp_path, run={"name": tmp_path.name}), {})


def test_one_artifact_changes_in_place_and_its_thread_ends_with_the_flow(run: RunFolder, prefect_server: None) -> None:
    key = artifact_key(run.ref.name, "spend")

    def work() -> None:
        progress = current(run).progress
        progress.begin(LABEL, shards=1, rows=2)
        wait_until(lambda: [each.data for each in artifacts(key)] == [0])
        progress.row_counter(LABEL)()
        wait_until(lambda: [each.data for each in artifacts(key)] == [25])

    shown(run.ref, work)
    [artifact] = artifacts(key)
    assert (artifact.type, artifact.data) == ("progress", 100)
    assert "| label | 1 of 2 |" in str(artifact.description)
    assert "tapir-live-spend" not in [thread.name for thread in threading.enumerate()]
    shown(run.ref, lambda: None)
    assert len(artifacts(key)) == 2, "a second flow run is a second version"
    close_all()


def test_a_server_that_is_away_is_no_error_and_is_not_waited_for(run: RunFolder, prefect_server: None) -> None:
    @flow(name="left alone")
    def left_alone() -> float:
        began = time.monotonic()
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), live_spend(run.ref, [LABEL]):
            time.sleep(0.1)
        return time.monotonic() - began

    assert left_alone() < 5
    close_all()
