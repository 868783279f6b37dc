"""Replicas as flow runs of *serve-student* on a Prefect server."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Crashed, Failed, Pending

from flows import fleet as fleet_module
from flows.fleet import SERVING, join_fleet, serving_fleet, training_fleet
from flows.forms import serve_student_from_form
from flows.prefect_server.server import DEPLOYMENTS
from tapir_core.errors import EngineError, MissingPrerequisite
from tapir_core.run_folder import RunFolder, open_run
from tasks.engines.replicas import Ended, ReplicaStudents, replicas_of
from tasks.flow_runs import Deployment
from tasks.runtime import close_all, current
from tests.run_config import make_config

DEPLOYMENT = "of-this-test"

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def own_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is shared, and others may have applied the real one to it."""
    own = replace(SERVING, name=f"serve-student/{DEPLOYMENT}")
    monkeypatch.setattr(fleet_module, "SERVING", own)


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return open_run(make_config(tmp_path, student={"engine": {"type": "replicas"}}), {})


@pytest.fixture
def deployed(client: SyncPrefectClient) -> Iterator[UUID]:
    """The deployment, without a worker."""
    pool = client.create_work_pool(WorkPoolCreate(name="a-pool-of-nobody", type="process"))
    flow = client.create_flow(serve_student_from_form)
    deployment = client.create_deployment(flow, DEPLOYMENT, work_pool_name=pool.name)
    yield deployment
    client.delete_deployment(deployment)
    client.delete_work_pool(pool.name)


def test_a_server_without_the_deployment_is_refused_before_anything_is_paid(run: RunFolder) -> None:
    with pytest.raises(MissingPrerequisite, match=r"needs the deployment serve-student and GPU workers.*`tapir up`"):
        join_fleet(run)


def test_what_a_run_starts_is_what_is_deployed() -> None:
    assert SERVING.name in DEPLOYMENTS


def test_a_run_that_serves_its_student_itself_needs_no_deployment(tmp_path: Path) -> None:
    join_fleet(open_run(make_config(tmp_path), {}))


@pytest.mark.usefixtures("deployed")
def test_a_run_that_has_joined_asks_its_workers_and_opens_their_registry_then(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[RunFolder] = []

    def open_replicas(run: RunFolder, *more: Any) -> ReplicaStudents:
        opened.append(run)
        return replicas_of(run, *more)

    monkeypatch.setattr(fleet_module, "replicas_of", open_replicas)
    join_fleet(run)
    assert opened == []
    try:
        assert type(current(run).students) is ReplicaStudents
        assert opened == [run]
    finally:
        close_all()


def tagged(tag: str) -> FlowRunFilter:
    return FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]))


@pytest.mark.usefixtures("deployed")
def test_a_replica_is_one_flow_run_however_often_it_is_asked_for(run: RunFolder, client: SyncPrefectClient) -> None:
    fleet = serving_fleet(run)
    fleet_module.SERVING.check()
    for _ in range(2):
        fleet.ask(2, "0a1b")
    (started,) = client.read_flow_runs(flow_run_filter=tagged("replica-0a1b"))
    assert started.parameters == {"run": "example", "after_round": 2, "replica": "0a1b"}
    assert {"tapir", "run-example"} <= set(started.tags)
    assert fleet.ended("0a1b") is None
    for state, end in ((Failed(message="no GPU"), Ended("failed", "no GPU")), (Crashed(), Ended("crashed", ""))):
        client.set_flow_run_state(started.id, state, force=True)
        assert fleet.ended("0a1b") == end


def test_a_node_of_a_training_is_started_for_its_round_under_its_id(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[Any, ...]] = []

    def start(_: object, key: str, parameters: dict[str, Any], *, run_name: str, tags: list[str]) -> None:
        started.append((key, parameters, run_name, tags))

    monkeypatch.setattr(Deployment, "start", start)
    training_fleet(run).ask(3, "0a1b")
    parameters = {"run": "example", "round_number": 3, "node": "0a1b"}
    # Without the tags of an attempt, which the driver follows.
    assert started == [("node-0a1b", parameters, "example", ["tapir", "run-example", "node-0a1b"])]


@pytest.mark.usefixtures("deployed")
def test_only_what_no_worker_has_begun_is_cancelled(run: RunFolder, client: SyncPrefectClient) -> None:
    fleet = serving_fleet(run)
    for replica in ("0c", "0d"):
        fleet.ask(1, replica)
    (begun,) = client.read_flow_runs(flow_run_filter=tagged("replica-0d"))
    client.set_flow_run_state(begun.id, Pending(), force=True)
    for replica in ("0c", "0d", "unknown"):
        fleet.withdraw(replica)
    cancelled = fleet.ended("0c")
    assert cancelled is not None
    assert cancelled.how == "cancelled"
    assert fleet.ended("0d") is None
    assert fleet.ended("unknown") == Ended("cancelled", "there is no flow run of it")


def test_a_server_that_is_away_is_an_error_of_ours(run: RunFolder) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(EngineError, match="does not do what is asked"),
    ):
        serving_fleet(run).ended("0a1b")
