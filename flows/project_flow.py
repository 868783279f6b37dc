"""The project's own Prefect flow: JSON results, names that read, interrupts that end all threads."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from prefect import flow

from flows.interrupts import prompt_interrupts

__all__ = ["project_flow"]


def project_flow(name: str, *, run_name: str) -> Callable[[Callable[..., Any]], Any]:
    """Prefect's flow with this project's settings. Parameters are checked by the configuration, not by Prefect."""

    def wrap(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def body(*args: Any, **kwargs: Any) -> Any:
            with prompt_interrupts():
                return function(*args, **kwargs)

        return flow(
            name=name,
            flow_run_name=run_name,
            persist_result=True,
            result_serializer="json",
            validate_parameters=False,
        )(body)

    return wrap
