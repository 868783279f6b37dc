"""A comparison in Prefect's UI: its table and its plots, and a flow run that does not carry them about."""

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterName,
)

from flows.commands.series import show_arms

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_table_and_plots_are_artifacts_of_a_flow_run_without_parameters() -> None:
    show_arms("Arms.2", "| Arm |", "![Difference to random](data:image/svg+xml;base64,PHN2Zy8+)")
    with get_client(sync_client=True) as client:
        named = FlowRunFilter(name=FlowRunFilterName(any_=["Arms.2"]))
        [flow_run] = client.read_flow_runs(flow_run_filter=named)
        like = ArtifactFilter(key=ArtifactFilterKey(like_="arms-2-%"))
        shown = {str(each.key): each for each in client.read_artifacts(artifact_filter=like)}
    assert flow_run.parameters == {}
    assert set(shown) == {"arms-2-comparison", "arms-2-comparison-plots"}
    assert {each.flow_run_id for each in shown.values()} == {flow_run.id}
    assert shown["arms-2-comparison"].data == "| Arm |"
