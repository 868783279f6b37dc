"""What the Prefect server itself does about our flow runs: a silent one is set to *Crashed*, a cancelled one says more.

A flow run sends a heartbeat as long as its process lives; the worker tells the server when a flow run ends, and nobody
does when both are killed. Limits: a server that was away for longer than the silence finds all runs silent; a run that
lives on sets its own state at its end.
"""

from datetime import timedelta
from typing import TYPE_CHECKING

from flows.commands.prefect_process import HEARTBEAT_SECONDS, TAG

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

__all__ = [
    "CANCELLED",
    "SILENCE_SECONDS",
    "ZOMBIES",
    "automations",
    "cancelled_automation",
    "install_automation",
    "zombie_automation",
]

ZOMBIES = "tapir: flow runs without a sign of life"
CANCELLED = "tapir: how a cancelled flow run goes on"

SILENCE_SECONDS = 10 * HEARTBEAT_SECONDS
"""Longer than a restart of the server, and than Prefect's own three minutes between heartbeats of other workers."""

_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Paused", "Suspended")
"""States in which a flow run has no process."""


def zombie_automation(silence_seconds: float = SILENCE_SECONDS) -> "AutomationCore":
    """Sets a flow run with our tag to *Crashed* that has sent no heartbeat for ``silence_seconds`` (at least 10)."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    message = (
        f"No sign of life for {silence_seconds / 60:g} minutes: its process, its worker or the machine is gone. Retry "
        "the flow run that was started from a deployment, or give the same `tapir run` again: it goes on where it "
        "stopped, and what is stored costs nothing again."
    )
    trigger = EventTrigger(
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        match_related={"prefect.resource.id": [f"prefect.tag.{TAG}"], "prefect.resource.role": ["tag"]},
        for_each={"prefect.resource.id"},
        after={_HEARTBEAT},
        expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _ENDS)},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=silence_seconds),
    )
    return AutomationCore(
        name=ZOMBIES,
        description="Installed by `tapir up` and `tapir deploy`.",
        trigger=trigger,
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


def cancelled_automation() -> "AutomationCore":
    """Adds how it goes on to the state of a cancelled flow run with our tag: the worker that sets it does not say."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    message = (
        "Cancelled; everything received is stored. Retry goes on where it stopped, and so does a new start under the "
        "same name."
    )
    trigger = EventTrigger(
        # What the action says itself does not start it again.
        match={"prefect.resource.id": ["prefect.flow-run.*"], "prefect.state-message": ["!*Retry*"]},
        match_related={"prefect.resource.id": [f"prefect.tag.{TAG}"], "prefect.resource.role": ["tag"]},
        for_each={"prefect.resource.id"},
        expect={"prefect.flow-run.Cancelled"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(seconds=0),
    )
    return AutomationCore(
        name=CANCELLED,
        description="Installed by `tapir up` and `tapir deploy`.",
        trigger=trigger,
        actions=[ChangeFlowRunState(state=StateType.CANCELLED, message=message, force=True)],
    )


def automations() -> "list[AutomationCore]":
    """All that `tapir up` and `tapir deploy` install."""
    return [zombie_automation(), cancelled_automation()]


def install_automation(client: "SyncPrefectClient", wanted: "AutomationCore") -> bool:
    """Make the server hold ``wanted`` exactly once; one that was paused by hand stays paused. Whether it was made."""
    from prefect.events.schemas.automations import AutomationCore

    held = client.read_automations_by_name(wanted.name)
    for twice in held[1:]:
        client.delete_automation(twice.id)
    if held:
        wanted = wanted.model_copy(update={"enabled": held[0].enabled})
        if AutomationCore.model_validate(held[0].model_dump()) == wanted:
            return False
        client.delete_automation(held[0].id)
    client.create_automation(wanted)
    return True
