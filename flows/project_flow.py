"""The project's own Prefect flow: JSON results, names that read, prompt interrupts, states that say how to go on."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from prefect import flow

from flows.interrupts import prompt_interrupts
from flows.remedies import tell_remedy
from flows.server_away import outlast_server
from flows.until import Reached

__all__ = ["project_flow"]


def project_flow(name: str, *, run_name: str) -> Callable[[Callable[..., Any]], Any]:
    """Prefect's flow with this project's settings. Parameters are checked by the configuration, not by Prefect.

    A flow that reaches the stage it was to go to is complete, and says so under ``stopped`` in what it returns.
    """

    def wrap(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def body(*args: Any, **kwargs: Any) -> Any:
            outlast_server()
            with prompt_interrupts():
                try:
                    return function(*args, **kwargs)
                except Reached as reached:
                    return {"stopped": str(reached)}

        return flow(
            name=name,
            flow_run_name=run_name,
            persist_result=True,
            result_serializer="json",
            validate_parameters=False,
            on_failure=[tell_remedy],
            on_crashed=[tell_remedy],
        )(body)

    return wrap
