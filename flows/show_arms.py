"""The flow *compare*: what a comparison came to, as artifacts in Prefect's UI. Its runs are their own flow runs."""

from flows.running.project_flow import project_flow
from tasks.artifacts import publish_comparison

__all__ = ["show_arms"]


def show_arms(name: str, card: str, plots: str) -> None:
    """Show the arms of the comparison ``name``: their card and their plots, both Markdown."""

    # Without parameters: Prefect would keep the images with the flow run, and load them with every list of flow runs.
    @project_flow("compare", run_name=name)
    def compare() -> None:
        publish_comparison(name, card, plots)

    compare()
