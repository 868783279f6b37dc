"""What a user switched on or off: applying deployments again makes schedules and triggers as `prefect.yaml` says.

Limits: only a schedule with a slug, and a trigger with a name of its own, is known again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.events.schemas.automations import Automation

__all__ = ["kept_switches"]


@contextmanager
def kept_switches(deployments: Sequence[str]) -> Iterator[None]:
    """After the block, schedules and triggers of these deployments are on or off as they were before it.

    Prefect's server must be settled.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        before = [(each, _triggers(client, each)) for each in _standing(client, deployments)]
        yield
        for old, triggers in before:
            new = client.read_deployment(old.id)
            on = {each.slug for each in old.schedules if each.active and each.slug is not None}
            for schedule in new.schedules:
                if schedule.slug in on:
                    client.update_deployment_schedule(new.id, schedule.id, active=True)
            was_on = {each.name: each.enabled for each in triggers}
            for each in _triggers(client, new):
                if was_on.get(each.name, each.enabled) != each.enabled:
                    (client.pause_automation if each.enabled else client.resume_automation)(each.id)


def _standing(client: "SyncPrefectClient", deployments: Sequence[str]) -> list["DeploymentResponse"]:
    """Those that are there already."""
    from prefect.exceptions import ObjectNotFound

    found = []
    for name in deployments:
        try:
            found.append(client.read_deployment_by_name(name))
        except ObjectNotFound:
            continue
    return found


def _triggers(client: "SyncPrefectClient", deployment: "DeploymentResponse") -> list["Automation"]:
    return client.read_resource_related_automations(f"prefect.deployment.{deployment.id}")
