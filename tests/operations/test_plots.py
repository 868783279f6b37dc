"""The plots of a run are seen as images, in both of Prefect's UIs."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from tapir_core.run_folder import RunRef
from tasks.artifacts import publish_run
from tests.conftest import StandingServer
from tests.operations.pages import Ui, open_ui
from tests.run_builder import build_run, make_config

pytestmark = [pytest.mark.operations, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="module")
def plots(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> UUID:
    root = tmp_path_factory.mktemp("runs")
    run = build_run(root, config=make_config(root, run={"name": "seen"}))

    @flow(name="publish", validate_parameters=False)
    def publish(ref: RunRef) -> None:
        publish_run(ref)

    publish(run.ref)
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["seen-plots"]))
        [shown] = client.read_artifacts(artifact_filter=wanted)
    return shown.id


@pytest.fixture
def ui(standing_prefect: StandingServer) -> Iterator[Ui]:
    with open_ui(standing_prefect.api.removesuffix("/api")) as ui:
        yield ui


@pytest.mark.parametrize("base", ["", "/v2"])
def test_the_plots_are_drawn_on_the_page_of_their_artifact(ui: Ui, plots: UUID, base: str) -> None:
    ui.page.goto(f"{ui.address}{base}/artifacts/artifact/{plots}")
    for title in ("Accuracy by round", "Accuracy by task type"):
        image = ui.page.get_by_role("img", name=title)
        image.wait_for()
        width, height = image.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])")
        assert width > 400
        assert height > 200
        assert image.evaluate("image => image.clientWidth") > 300
