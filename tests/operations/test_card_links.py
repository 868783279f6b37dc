"""The links of a run card open, in both of Prefect's UIs and from every page that shows the card."""

from collections.abc import Iterator

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact

from tapir_core.run_folder import RunRef
from tasks.artifacts import publish_round, publish_run
from tests.conftest import StandingServer
from tests.operations.pages import Ui, open_ui
from tests.run_builder import build_run
from tests.run_config import make_config

pytestmark = [pytest.mark.operations, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Artifact:
    # A name of its own: a card links to all that the server has of its run's name.
    run = build_run("", config=make_config(tmp_path_factory.mktemp("runs"), run={"name": "links"}))

    @flow(name="publish", validate_parameters=False)
    def publish(ref: RunRef) -> None:
        publish_round(ref, 1)
        publish_run(ref)

    publish(run.ref)
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["links-card"]))
        [card] = client.read_artifacts(artifact_filter=wanted)
    return card


@pytest.fixture
def ui(standing_prefect: StandingServer) -> Iterator[Ui]:
    with open_ui(standing_prefect.api.removesuffix("/api")) as ui:
        yield ui


@pytest.mark.parametrize("base", ["", "/v2"])
def test_a_link_opens_the_table_that_it_names(ui: Ui, card: Artifact, base: str) -> None:
    ui.page.goto(f"{ui.address}{base}/artifacts/artifact/{card.id}")
    link = ui.page.get_by_role("link", name="stages", exact=True).first
    link.wait_for()
    # Prefect's first UI opens links in a window of their own.
    opened = link.evaluate("link => link.href")
    ui.page.goto(opened)
    ui.page.wait_for_url(f"{ui.address}{base}/artifacts/artifact/*")
    ui.page.get_by_text("answer", exact=True).first.wait_for()
