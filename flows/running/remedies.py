"""What the state of a flow run that ended badly tells a person to do: hooks of every flow, and a sentence of its own.

Limits: the state *Cancelled* is set when all of ours has ended; the server adds to it (flows/commands/automations.py).
"""

import shlex
import sys
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State

__all__ = ["GO_ON", "tell_remedy"]

GO_ON = (
    "Retry goes on where it stopped, and so does a new start under the same name; what is stored is not asked again."
)


def tell_remedy(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Add the way on to the state of a flow run that crashed, or failed by what the flow has not told itself."""
    told = state.is_failed() and not isinstance(state.result(raise_on_failure=False), BaseException)
    if told or flow_run.parent_task_run_id is not None:
        return
    # Without a deployment there is nothing to retry: a process of ours has started it, with this command.
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    remedy = GO_ON if flow_run.deployment_id is not None else f"`{command}` goes on where it stopped."
    with get_client(sync_client=True) as client:
        now = client.read_flow_run(flow_run.id).state
        # Retried meanwhile: what it says now is true.
        if now is None or now.type != state.type:
            return
        message = f"{state.message or state.name} {remedy}"
        client.set_flow_run_state(flow_run.id, state.model_copy(update={"message": message}), force=True)
