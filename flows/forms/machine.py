"""One deployed run at a time has a machine: it takes the GPUs, or the cores, for itself.

A run whose students others serve, and train, takes neither: it waits for nobody here.
"""

import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists

from flows.running.suspension import leave_if_suspended
from tapir_core.config import RunConfig

__all__ = ["machine_to_distil", "machine_to_evaluate"]

_ASK_AGAIN_SECONDS = 60.0
"""Between two looks at whether a run that waits for the machine was suspended."""

_FORGOTTEN_SECONDS = 120.0
"""For so long a flow run that was killed still has the machine."""


def machine_to_distil(config: RunConfig) -> AbstractContextManager[None]:
    """This machine for a run that serves its student or trains it here; nothing for one that does neither."""
    serves = config.student.engine.served_by == "driver"
    return _whole_machine() if serves or config.training.runs_on == "driver" else nullcontext()


def machine_to_evaluate(config: RunConfig) -> AbstractContextManager[None]:
    """This machine for who serves students to score them, which replicas of a run do not; nothing for an endpoint."""
    return nullcontext() if config.student.engine.served_by == "others" else _whole_machine()


@contextmanager
def _whole_machine() -> Iterator[None]:
    """Wait until no other deployed run distils on this machine: it takes the GPUs, or the cores, for itself.

    Held in the flow, not before it: a wrong value must not wait for hours before it is refused.
    """
    name = f"distill-on-{socket.gethostname()}"
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    get_run_logger().info("taking the machine (concurrency limit %s); another run may have to end first", name)
    with ExitStack() as held:
        while True:
            with suppress(TimeoutError):
                seconds = _ASK_AGAIN_SECONDS
                held.enter_context(concurrency(name, timeout_seconds=seconds, lease_duration=_FORGOTTEN_SECONDS))
                break
            leave_if_suspended()
        yield
