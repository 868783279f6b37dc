"""Work pools, deployments and automations on a Prefect server: made where they are missing, applied again on demand.

The deployments stand in `deployments/prefect.yaml`, which Prefect's own command applies; that makes all of them as they
stand there. Kept are what a user switched of schedules and triggers, and the job variables that the file does not set.

The automations are what the server itself does about our flow runs: a silent one is set to *Crashed*, a cancelled one
says more. A flow run sends a heartbeat as long as its process lives; the worker tells the server when a flow run ends,
and nobody does when both are killed.

Limits: only a schedule with a slug, and a trigger with a name of its own, is known again. A server that was away for
longer than the silence finds all runs silent; a run that lives on sets its own state at its end.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from http import HTTPStatus
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

from flows.prefect_server import (
    HEARTBEAT_SECONDS,
    TAG,
    check_entry,
    prepare_prefect,
    save_results_storage,
)
from flows.prefect_server.caretaker import POOLS, Post
from tapir_core.errors import EngineError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.events.schemas.automations import Automation, AutomationCore

DEPLOYMENTS = (
    "distill/distill",
    "retry-judge/retry-judge",
    "evaluate/evaluate",
    "sweep-backbones/sweep-backbones",
    "compare/compare",
    "fine-tune/fine-tune",
    "serve-student/serve-student",
)
"""Flow and deployment of each entry of `deployments/prefect.yaml`."""

ZOMBIES = "tapir: flow runs without a sign of life"
CANCELLED = "tapir: how a cancelled flow run goes on"

SILENCE_SECONDS = 10 * HEARTBEAT_SECONDS
"""Longer than a restart of the server, and than Prefect's own three minutes between heartbeats of other workers."""

_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Paused", "Suspended")
"""States in which a flow run has no process."""

_WORKERS_SECONDS = 90.0


def deploy(api: str, root: str, *, again: bool) -> list[str]:
    """Make the work pools, deployments and automations that a server lacks; with ``again`` apply all deployments.

    Args:
        api: URL of the server's API.
        root: Prefect's own files of this process go below it.
        again: Applied deployments get the forms of today: presets that were added, fields that changed.

    Returns:
        What was made.

    Raises:
        EngineError: Prefect refuses the deployments.
        MissingPrerequisite: the server wants a password.
    """
    check_entry(api)
    prepare_prefect(root)
    os.environ["PREFECT_API_URL"] = api
    # Not before: Prefect reads its settings when it is imported.
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    made = []
    save_results_storage(root)
    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        for pool in POOLS:
            with suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
                made.append(f"work pool {pool}")
        for wanted in automations():
            if install_automation(client, wanted):
                made.append(f"automation {wanted.name!r}")
        standing = standing_deployments(client, DEPLOYMENTS)
        missing = [name for name in DEPLOYMENTS if name not in standing or is_foreign(standing[name])]
    if missing or again:
        with kept_changes(DEPLOYMENTS):
            _apply()
    return [*made, *(f"deployment {name}" for name in (DEPLOYMENTS if again else missing))]


def wait_for_workers(api: str, posts: Sequence[Post], *, is_alive: Callable[[], bool]) -> None:
    """Wait until this machine's workers have said that they are there.

    Raises:
        EngineError: one does not come.
    """
    from prefect.client.orchestration import get_client

    deadline, waiting = time.monotonic() + _WORKERS_SECONDS, list(posts)
    with get_client(sync_client=True) as client:
        while waiting:
            found = {name for pool in {post.pool for post in waiting} for name in online_workers(client, pool)}
            waiting = [post for post in waiting if post.name not in found]
            if waiting and (time.monotonic() > deadline or not is_alive()):
                raise EngineError(f"no worker came to {' and '.join(post.label for post in waiting)} at {api}")
            time.sleep(0.3 if waiting else 0)


def online_workers(client: "SyncPrefectClient", pool: str) -> list[str]:
    """Names of the workers of a pool that have given a sign of life; none where there is no such pool."""
    from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus
    from prefect.exceptions import PrefectHTTPStatusError

    online = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
    try:
        return [worker.name for worker in client.read_workers_for_work_pool(pool, worker_filter=online)]
    except PrefectHTTPStatusError as error:
        if error.response.status_code != HTTPStatus.NOT_FOUND:
            raise
        return []


@contextmanager
def kept_changes(deployments: Sequence[str]) -> Iterator[None]:
    """After the block, these deployments have the switches and job variables of their own that they had before it.

    Prefect's server must be settled.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate

    with get_client(sync_client=True) as client:
        before = [(each, triggers_of(client, each)) for each in standing_deployments(client, deployments).values()]
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
            for each in triggers_of(client, new):
                if was_on.get(each.name, each.enabled) != each.enabled:
                    (client.pause_automation if each.enabled else client.resume_automation)(each.id)


def is_foreign(deployment: "DeploymentResponse") -> bool:
    """Whether it starts a function that this version of tapir does not have: another version applied it."""
    ours = (files("deployments") / "prefect.yaml").read_text()
    return f"{deployment.entrypoint}\n" not in ours


def standing_deployments(client: "SyncPrefectClient", names: Sequence[str]) -> "dict[str, DeploymentResponse]":
    """Those of ``names`` that are there, by name."""
    from prefect.exceptions import ObjectNotFound

    found = {}
    for name in names:
        with suppress(ObjectNotFound):
            found[name] = client.read_deployment_by_name(name)
    return found


def triggers_of(client: "SyncPrefectClient", deployment: "DeploymentResponse") -> "list[Automation]":
    """The automations that start a deployment."""
    return client.read_resource_related_automations(f"prefect.deployment.{deployment.id}")


def automations() -> "list[AutomationCore]":
    """All that `tapir up` and `tapir deploy` install."""
    return [zombie_automation(), cancelled_automation()]


def zombie_automation(silence_seconds: float = SILENCE_SECONDS) -> "AutomationCore":
    """Sets a flow run with our tag to *Crashed* that has sent no heartbeat for ``silence_seconds`` (at least 10)."""
    message = (
        f"No sign of life for {silence_seconds / 60:g} minutes: its process, its worker or the machine is gone. Retry "
        "the flow run that was started from a deployment, or give the same `tapir run` again: it goes on where it "
        "stopped, and what is stored costs nothing again."
    )
    return _automation(
        ZOMBIES,
        {"state": "CRASHED", "message": message},
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        after={_HEARTBEAT},
        expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _ENDS)},
        posture="Proactive",
        within=timedelta(seconds=silence_seconds),
    )


def cancelled_automation() -> "AutomationCore":
    """Adds how it goes on to the state of a cancelled flow run with our tag: the worker that sets it does not say."""
    message = (
        "Cancelled; everything received is stored. Retry goes on where it stopped, and so does a new start under the "
        "same name."
    )
    return _automation(
        CANCELLED,
        {"state": "CANCELLED", "message": message, "force": True},
        # What the action says itself does not start it again.
        match={"prefect.resource.id": ["prefect.flow-run.*"], "prefect.state-message": ["!*Retry*"]},
        expect={"prefect.flow-run.Cancelled"},
        posture="Reactive",
        within=timedelta(seconds=0),
    )


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


def _automation(name: str, action: dict[str, Any], **trigger: Any) -> "AutomationCore":
    """What changes the state of each flow run with our tag of which ``trigger`` is true."""
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    ours = {"prefect.resource.id": [f"prefect.tag.{TAG}"], "prefect.resource.role": ["tag"]}
    return AutomationCore(
        name=name,
        description="Installed by `tapir up` and `tapir deploy`.",
        trigger=EventTrigger(match_related=ours, for_each={"prefect.resource.id"}, threshold=1, **trigger),
        actions=[ChangeFlowRunState(**action)],
    )


def _apply() -> None:
    with as_file(files("deployments") / "prefect.yaml") as file:
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise EngineError(f"Prefect refused deployments/prefect.yaml:\n{done.stdout[-3000:]}")
