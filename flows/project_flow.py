"""The project's own Prefect flow: JSON results, names that read."""

from collections.abc import Callable
from typing import Any

from prefect import flow

__all__ = ["project_flow"]


def project_flow(name: str, *, run_name: str) -> Callable[..., Any]:
    """Prefect's flow with this project's settings. Parameters are checked by the configuration, not by Prefect."""
    return flow(
        name=name,
        flow_run_name=run_name,
        persist_result=True,
        result_serializer="json",
        validate_parameters=False,
    )
