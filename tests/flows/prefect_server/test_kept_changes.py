"""What a user changed of deployments outlives that they are applied again."""

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger

from flows.deploy import kept_changes

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "switched/switched"


@flow(name="switched")
def switched() -> None:
    """Is never run."""


def apply() -> None:
    """As `prefect deploy` does: the schedule is off, one trigger is on and one is off."""
    nightly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 2 * * *"), active=False, slug="nightly")
    with get_client(sync_client=True) as client:
        variables = {"command": "as written"}
        made = client.create_deployment(
            client.create_flow(switched), "switched", schedules=[nightly], job_variables=variables
        )
        client.delete_resource_owned_automations(f"prefect.deployment.{made}")
        for name, enabled in (("on", True), ("off", False)):
            trigger = DeploymentEventTrigger(name=name, enabled=enabled, expect={"something"})
            trigger.set_deployment_id(made)
            client.create_automation(trigger.as_automation())


def switches() -> dict[str | None, bool]:
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(NAME)
        triggers = client.read_resource_related_automations(f"prefect.deployment.{found.id}")
        return {
            **{each.slug: each.active for each in found.schedules},
            **{each.name: each.enabled for each in triggers},
        }


def test_schedules_and_triggers_stay_as_they_were_switched() -> None:
    with kept_changes([NAME]):
        apply()
    assert switches() == {"nightly": False, "on": True, "off": False}, "at first as they are applied"

    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(NAME)
        client.update_deployment_schedule(found.id, found.schedules[0].id, active=True)
        for each in client.read_resource_related_automations(f"prefect.deployment.{found.id}"):
            (client.pause_automation if each.enabled else client.resume_automation)(each.id)
    with kept_changes([NAME, "not-yet/there"]):
        apply()
        assert switches() == {"nightly": False, "on": True, "off": False}
    assert switches() == {"nightly": True, "on": False, "off": True}


def test_job_variables_of_a_users_own_stay_and_those_that_are_written_down_are_as_written() -> None:
    apply()
    with get_client(sync_client=True) as client:
        made = client.read_deployment_by_name(NAME).id
        client.update_deployment(made, DeploymentUpdate(job_variables={"command": "changed", "shared_memory": "32g"}))
        with kept_changes([NAME]):
            apply()
            assert client.read_deployment(made).job_variables == {"command": "as written"}
        assert client.read_deployment(made).job_variables == {"command": "as written", "shared_memory": "32g"}
