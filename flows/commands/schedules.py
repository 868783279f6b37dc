"""What a user changed of deployments: applying them again makes all of it as `prefect.yaml` says.

Kept are switches of schedules and triggers, and the job variables that `prefect.yaml` does not set. Limits: only a
schedule with a slug, and a trigger with a name of its own, is known again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.events.schemas.automations import Automation

__all__ = ["kept_changes"]


@contextmanager
def kept_changes(deployments: Sequence[str]) -> Iterator[None]:
    """After the block, these deployments have the switches and job variables of their own that they had before it.

    Prefect's server must be settled.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate

    with get_client(sync_client=True) as client:
        before = [(each, _triggers(client, each)) for each in _standing(client, deployments)]
        yield
        for old, triggers in before:
            new = client.read_deployment(old.id)
            on = {each.slug for each in old.schedules if each.active and each.slug is not None}
            for schedule in new.schedules:
                if schedule.slug in on:
                    client.update_deployment_schedule(new.id, schedule.id, active=True)
            variables = {**old.job_variables, **new.job_variables}
            if variables != new.job_variables:
                client.update_deployment(new.id, DeploymentUpdate(job_variables=variables))
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
