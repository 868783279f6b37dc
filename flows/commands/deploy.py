"""Work pools, deployments and automations on a Prefect server: made where they are missing, applied again on demand.

The deployments stand in `deployments/prefect.yaml`, which Prefect's own command applies.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files

from flows.commands.automations import automations, install_automation
from flows.commands.caretaker import POOLS, Post
from flows.commands.prefect_process import check_entry, prepare_prefect
from flows.commands.results import save_results_storage
from flows.commands.schedules import kept_changes
from tapir_core.errors import EngineError

__all__ = ["DEPLOYMENTS", "deploy", "wait_for_workers"]

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
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.process import ProcessWorker

    made = []
    save_results_storage(root)
    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        for pool in POOLS:
            try:
                client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
                made.append(f"work pool {pool}")
            except ObjectAlreadyExists:
                continue
        for wanted in automations():
            if install_automation(client, wanted):
                made.append(f"automation {wanted.name!r}")
        missing = []
        for name in DEPLOYMENTS:
            try:
                client.read_deployment_by_name(name)
            except ObjectNotFound:
                missing.append(name)
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
    from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus

    online = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
    deadline, waiting = time.monotonic() + _WORKERS_SECONDS, list(posts)
    with get_client(sync_client=True) as client:
        while waiting:
            pools = {post.pool for post in waiting}
            found = {w.name for pool in pools for w in client.read_workers_for_work_pool(pool, worker_filter=online)}
            waiting = [post for post in waiting if post.name not in found]
            if waiting and (time.monotonic() > deadline or not is_alive()):
                raise EngineError(f"no worker came to {' and '.join(post.label for post in waiting)} at {api}")
            time.sleep(0.3 if waiting else 0)


def _apply() -> None:
    with as_file(files("deployments") / "prefect.yaml") as file:
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise EngineError(f"Prefect refused deployments/prefect.yaml:\n{done.stdout[-3000:]}")
