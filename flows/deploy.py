"""Work pools, deployments and automations on a Prefect server: made where they are missing, applied again on demand.

The deployments stand in `deployments/prefect.yaml`, which Prefect's own command applies; that makes all of them as they
stand there. Kept are what a user switched of schedules and triggers, and the job variables that the file does not set.

The automations of `deployments/automations.toml` are what the server itself does about our flow runs: a silent one is
set to *Crashed*, a cancelled one says more. A flow run sends a heartbeat as long as its process lives; the worker tells
the server when a flow run ends, and nobody does when both are killed.

Limits: only a schedule with a slug, and a trigger with a name of its own, is known again. A server that was away for
longer than the silence finds all runs silent; a run that lives on sets its own state at its end.
"""

import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from importlib.resources import as_file, files

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import actions, filters, responses
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.workers.process import ProcessWorker

from flows.prefect_server import caretaker
from flows.prefect_server.server import DEPLOYMENTS, save_results_storage
from tapir_core.errors import EngineError

_WORKERS_SECONDS = 90.0

AUTOMATIONS = {
    "tapir: flow runs without a sign of life": "nothing notices a flow run whose worker was killed",
    "tapir: how a cancelled flow run goes on": "a cancelled flow run does not say how it goes on",
    "retry-a-run-that-stopped-in-judging": "a run that its judge stopped waits for *retry-judge* by hand",
    "retry-a-run-that-went-on-without-verdicts": "its verdicts wait for *retry-judge* by hand",
    "sweep-a-registered-backbone": "a backbone that is added waits for *sweep-backbones* by hand",
}
"""Automations and triggers of deployments, by their names on the server; what happens without each."""

OFF_AT_FIRST = "retry-a-run-that-went-on-without-verdicts"
"""As deployed; whoever wants it resumes it."""


def deploy(root: str, *, again: bool) -> list[str]:
    """Make what the server at work lacks of work pools, deployments and automations; ``again`` applies all deployments.

    Args:
        root: What flow runs of it return goes below it, where it is on S3.
        again: Applied deployments get the forms of today: presets that were added, fields that changed.

    Returns:
        What was made.

    Raises:
        EngineError: Prefect refuses the deployments.
    """
    save_results_storage(root)
    with get_client(sync_client=True) as client:
        pools = {each.name for each in client.read_work_pools()}
        template = ProcessWorker.get_default_base_job_template()
        for pool in sorted({*caretaker.POOLS} - pools):
            client.create_work_pool(actions.WorkPoolCreate(name=pool, type="process", base_job_template=template))
        installed = [each.name for each in automations() if install_automation(client, each)]
        standing = standing_deployments(client, DEPLOYMENTS)
    missing = [name for name in DEPLOYMENTS if name not in standing or is_foreign(standing[name])]
    if missing or again:
        with kept_changes(DEPLOYMENTS):
            _apply()
    return [
        *(f"work pool {pool}" for pool in caretaker.POOLS if pool not in pools),
        *(f"automation {name!r}" for name in installed),
        *(f"deployment {name}" for name in (DEPLOYMENTS if again else missing)),
    ]


def wait_for_workers(api: str, posts: Sequence[caretaker.Post], *, is_alive: Callable[[], bool]) -> None:
    """Wait until this machine's workers have said that they are there.

    Raises:
        EngineError: one does not come.
    """
    deadline = time.monotonic() + _WORKERS_SECONDS
    with get_client(sync_client=True) as client:
        while waiting := [post for post in posts if post.name not in online_workers(client, post.pool)]:
            if time.monotonic() > deadline or not is_alive():
                raise EngineError(f"no worker came to {' and '.join(post.label for post in waiting)} at {api}")
            time.sleep(0.3)


def online_workers(client: SyncPrefectClient, pool: str) -> list[str]:
    """Names of the workers of a pool that have given a sign of life; none where there is no such pool."""
    online = filters.WorkerFilter(status=filters.WorkerFilterStatus(any_=["ONLINE"]))
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
                client.update_deployment(new.id, actions.DeploymentUpdate(job_variables=variables))
            was_on = {each.name: each.enabled for each in triggers}
            for each in triggers_of(client, new):
                if was_on.get(each.name, each.enabled) != each.enabled:
                    (client.pause_automation if each.enabled else client.resume_automation)(each.id)


def is_foreign(deployment: responses.DeploymentResponse) -> bool:
    """Whether it starts a function that this version of tapir does not have: another version applied it."""
    return f"{deployment.entrypoint}\n" not in (files("deployments") / "prefect.yaml").read_text()


def standing_deployments(client: SyncPrefectClient, names: Sequence[str]) -> dict[str, responses.DeploymentResponse]:
    """Those of ``names`` that are there, by name."""
    found = {}
    for name in names:
        with suppress(ObjectNotFound):
            found[name] = client.read_deployment_by_name(name)
    return found


def triggers_of(client: SyncPrefectClient, deployment: responses.DeploymentResponse) -> list[Automation]:
    """The automations that start a deployment."""
    return client.read_resource_related_automations(f"prefect.deployment.{deployment.id}")


def automations() -> list[AutomationCore]:
    """All that `tapir up` and `tapir deploy` install."""
    listed = tomllib.loads((files("deployments") / "automations.toml").read_text())["automations"]
    return [AutomationCore.model_validate(each) for each in listed]


def install_automation(client: SyncPrefectClient, wanted: AutomationCore) -> bool:
    """Make the server hold ``wanted`` exactly once; one that was paused by hand stays paused. Whether it was made."""
    held = client.read_automations_by_name(wanted.name)
    if held:
        wanted = wanted.model_copy(update={"enabled": held[0].enabled})
    if [AutomationCore.model_validate(each.model_dump()) for each in held] == [wanted]:
        return False
    for each in held:
        client.delete_automation(each.id)
    client.create_automation(wanted)
    return True


def _apply() -> None:
    with as_file(files("deployments") / "prefect.yaml") as file:
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise EngineError(f"Prefect refused deployments/prefect.yaml:\n{done.stdout[-3000:]}")
