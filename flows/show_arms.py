"""The flow *compare*: what a comparison came to, as an artifact in Prefect's UI. Its runs are their own flow runs."""

from flows.running.project_flow import project_flow
from tasks.artifacts import publish_comparison

__all__ = ["show_arms"]


@project_flow("compare", run_name="{name}")
def show_arms(name: str, card: str) -> None:
    """Show the arms of the comparison ``name``."""
    publish_comparison(name, card)
