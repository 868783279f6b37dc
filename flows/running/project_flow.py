"""The project's own Prefect flow: JSON results, names that read, children's logs, prompt interrupts, helpful states."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import uuid4

from prefect import flow, get_run_logger

from flows.running.interrupts import prompt_interrupts
from flows.running.remedies import tell_remedy
from flows.server_away import outlast_server
from flows.until import Reached
from tasks.engines.logs import told_to

__all__ = ["project_flow"]


_THIS_START = uuid4().hex


def project_flow(name: str, *, run_name: str, child: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Prefect's flow with this project's settings. Parameters are checked by the configuration, not by Prefect.

    A flow that reaches the stage it was to go to is complete, and says so under ``stopped`` in what it returns. A
    ``child`` is begun anew with each start of its parent: what of it is done, the run folder knows, and Prefect would
    give back what an earlier child returned, also when stages of it are to be redone.
    """

    def wrap(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def body(*args: Any, **kwargs: Any) -> Any:
            outlast_server()
            with prompt_interrupts(), told_to(get_run_logger().log):
                try:
                    return function(*args, **kwargs)
                except Reached as reached:
                    return {"stopped": str(reached)}

        if child:
            # By this and by its place among equals Prefect finds the child of an earlier start.
            body.__qualname__ = f"{function.__qualname__}_{_THIS_START}"
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
