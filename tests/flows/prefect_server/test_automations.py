"""A flow run of ours that gives no sign of life any more is set to Crashed, by one automation."""

import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.schemas.automations import AutomationCore
from prefect.states import Cancelled, Running

from flows.deploy import automations, install_automation
from flows.prefect_server.server import TAG

pytestmark = pytest.mark.usefixtures("prefect_server")

ZOMBIES, CANCELLED = automations()


def after(seconds: float) -> AutomationCore:
    """The automation for silent flow runs, of another patience."""
    trigger = ZOMBIES.trigger.model_copy(update={"within": timedelta(seconds=seconds)})
    return ZOMBIES.model_copy(update={"trigger": trigger})


def test_it_is_held_once_changed_when_it_has_to_and_stays_paused() -> None:
    with get_client(sync_client=True) as client:
        client.create_automation(after(60))
        client.create_automation(after(60))
        assert install_automation(client, ZOMBIES)
        assert not install_automation(client, ZOMBIES)
        (held,) = client.read_automations_by_name(ZOMBIES.name)
        client.pause_automation(held.id)
        assert not install_automation(client, ZOMBIES)
        (still,) = client.read_automations_by_name(ZOMBIES.name)
        assert (still.id, still.enabled) == (held.id, False)
        client.delete_automation(held.id)


def test_all_of_them_are_held_after_the_first_time_and_made_only_then() -> None:
    with get_client(sync_client=True) as client:
        for held in (held for each in automations() for held in client.read_automations_by_name(each.name)):
            client.delete_automation(held.id)
        assert [install_automation(client, each) for each in automations()] == [True, True]
        assert [install_automation(client, each) for each in automations()] == [False, False]
        for each in automations():
            client.delete_automation(client.read_automations_by_name(each.name)[0].id)


def start(client: Any, *tags: str) -> UUID:
    """A flow run that runs as far as the server knows, and has given one sign of life."""
    run = client.create_flow_run(flow(lambda: None, name="silent"), tags=tags, state=Running())
    related = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags]
    emit_event("prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{run.id}"}, related=related)
    return run.id


@pytest.mark.slow
def test_a_silent_run_of_ours_is_crashed_and_one_of_others_is_left() -> None:
    with get_client(sync_client=True) as client:
        install_automation(client, after(10))
        time.sleep(1)  # the server takes an automation up in its own time
        ours, others = start(client, TAG), start(client, "another")
        deadline = time.monotonic() + 45
        while (state := client.read_flow_run(ours).state).type == StateType.RUNNING:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert state.type == StateType.CRASHED
        assert "Retry" in state.message
        assert client.read_flow_run(others).state.type == StateType.RUNNING
        client.delete_automation(client.read_automations_by_name(ZOMBIES.name)[0].id)


@pytest.mark.slow
def test_a_cancelled_run_of_ours_is_told_how_it_goes_on_and_told_once() -> None:
    with get_client(sync_client=True) as client:
        install_automation(client, CANCELLED)
        time.sleep(1)  # the server takes an automation up in its own time
        ours, others = start(client, TAG), start(client, "another")
        for run in (ours, others):
            client.set_flow_run_state(run, Cancelled(message="Flow run was cancelled successfully."), force=True)
        deadline = time.monotonic() + 45
        while "Retry goes on" not in (state := client.read_flow_run(ours).state).message:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert (state.type, state.name) == (StateType.CANCELLED, "Cancelled")
        time.sleep(3)  # what its own change starts would come now
        assert client.read_flow_run(ours).state.id == state.id
        assert "Retry" not in client.read_flow_run(others).state.message
        client.delete_automation(client.read_automations_by_name(CANCELLED.name)[0].id)
