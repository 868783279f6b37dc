"""A person at the browser: starts a run from its form, sees it through, looks at what it left, and fixes an outage."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir_core.stages import StageAt
from tests.harness.stand_ins import StandinProcess, endpoint
from tests.harness.standing_root import StandingRoot
from tests.operations.pages import Ui, open_ui
from tests.students import make_tiny_students

RUN_SECONDS = 1200
"""For a run with real engines on a slow machine."""

pytestmark = [pytest.mark.operations, pytest.mark.timeout(3 * RUN_SECONDS)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingRoot]:
    with StandingRoot(tmp_path_factory.mktemp("root")) as root:
        root.up()
        yield root


@pytest.fixture(scope="module")
def backbone(root: StandingRoot) -> str:
    return make_tiny_students(root.folder, 1)[0].name


@pytest.fixture
def ui(root: StandingRoot) -> Iterator[Ui]:
    with open_ui(root.address) as ui:
        yield ui


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[StandinProcess]:
    """A stand-in that is judge only, and fails half of what it is asked: what befalls it befalls no teacher."""
    with StandinProcess(tmp_path, faults="500=0.5") as judge:
        yield judge


def test_a_run_is_started_from_its_form_and_seen_through_to_its_card(ui: Ui, backbone: str) -> None:
    ui.open_form("distill")
    ui.fill("TAPIR run", "first")
    ui.choose("Preset", "test")
    ui.fill("Backbone", backbone)
    ui.take_picture("distill-form", height=1500)
    ui.submit()

    ui.open_run("distill", "first")
    assert ui.wait_for_end(RUN_SECONDS) == "Completed"
    ui.open_run("distill", "first")  # drawn anew: a graph that grew while it was watched is seen from far away
    ui.open_tab("Subflow Runs")
    ui.take_picture("finished-run", height=860)
    assert "Done, 2 of 2 rounds trained." in ui.state_message()
    ui.open_artifact("first-card")
    ui.page.get_by_role("heading", name="Rounds").wait_for()
    ui.take_picture("run-card")

    ui.open_run("distill", "first")
    ui.open_subflow("round-2")
    ui.take_picture_of_graph("round", height=640)
    ui.open_artifact("first-round-2-mfd")
    ui.page.get_by_role("columnheader", name="Histogram").wait_for()
    assert ui.page.get_by_text("█").count() >= 2, "bars of at least two bins"
    ui.take_picture("mfd-histogram", height=700)


def test_an_outage_of_the_judge_is_seen_as_red_shards_and_mended_by_retry_judge(
    ui: Ui, root: StandingRoot, backbone: str, judge: StandinProcess
) -> None:
    ui.open_form("distill")
    ui.fill("TAPIR run", "outage")
    ui.choose("Preset", "test")
    ui.fill("Backbone", backbone)
    ui.fill("Rounds", "1")
    ui.add_item(f"judge.endpoint={endpoint(judge.base_url, 'standin-judge')}")
    ui.add_item("calls.max_attempts=1")
    ui.add_item("calls.shard_retries=0")
    ui.submit()

    ui.open_run("distill", "outage")
    assert ui.wait_for_end(RUN_SECONDS) == "Failed"
    assert "rows are missing" in ui.state_message()
    ui.open_subflow("round-1")
    ui.open_tab("Task Runs")
    ui.page.get_by_text("judge 0000/0003").first.wait_for()
    ui.take_picture("red-shards", height=1200)
    ui.open_artifact("outage-judge-round-1-shard-0000-missing")
    ui.page.get_by_text("HTTP 500").first.wait_for()
    ui.take_picture("missing-rows")
    received = judge.log.answered("judge")

    judge.stop()
    judge.start(faults="")
    ui.open_form("retry-judge")
    ui.fill("TAPIR run", "outage")
    ui.switch_on("Continue the run")
    ui.take_picture("retry-judge-form")
    ui.submit()
    ui.open_run("retry-judge", "outage")
    assert ui.wait_for_end(RUN_SECONDS) == "Completed"
    told = ui.state_message()
    ui.take_picture("retry-judge-done", height=1100)
    assert "0 now" in told
    assert "Done, 1 of 1 rounds trained." in told

    # Without the greetings, which ask again and again whether anybody is there.
    run, answered = root.run("outage"), judge.log.answered("judge")
    manifest = run.manifest(StageAt("judge", 1))
    assert manifest is not None
    assert manifest.accepted_missing == {}
    assert 0 < len(received) < len(answered)
    assert len(answered) == len(set(answered)), "what was received before was not asked for again"
