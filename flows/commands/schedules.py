"""Schedules that a user switched on: applying deployments again switches them off, as `deployments/prefect.yaml` says.

Limits: only a schedule with a slug is known again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

__all__ = ["kept_schedules"]


@contextmanager
def kept_schedules(deployments: Sequence[str]) -> Iterator[None]:
    """Switch on again, after the block, the schedules of these deployments that were on before it.

    Prefect's server must be settled.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        on = _switched_on(client, deployments)
        yield
        for name, slugs in on.items():
            deployment = client.read_deployment_by_name(name)
            for each in deployment.schedules:
                if each.slug in slugs:
                    client.update_deployment_schedule(deployment.id, each.id, active=True)


def _switched_on(client: "SyncPrefectClient", deployments: Sequence[str]) -> dict[str, set[str]]:
    """Deployment → slugs of its schedules that are on; without those that are not there yet."""
    from prefect.exceptions import ObjectNotFound

    on: dict[str, set[str]] = {}
    for name in deployments:
        try:
            schedules = client.read_deployment_by_name(name).schedules
        except ObjectNotFound:
            continue
        on[name] = {each.slug for each in schedules if each.active and each.slug is not None}
    return on
