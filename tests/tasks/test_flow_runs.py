"""Flow runs of a deployment on a real server, without a worker."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Completed, Crashed, Pending

from tapir_core.errors import EngineError, MissingPrerequisite
from tapir_core.stages import StageAt
from tasks import train
from tasks.flow_runs import Deployment
from tasks.train import FineTuneRuns, training_lease
from tests.run_builder import build_run

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "worked/of-these-tests"


@flow(name="worked")
def worked() -> None:
    """Is never run."""


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployment(client: SyncPrefectClient) -> Iterator[Deployment]:
    pool = client.create_work_pool(WorkPoolCreate(name="without-a-worker", type="process"))
    made = client.create_deployment(client.create_flow(worked), "of-these-tests", work_pool_name=pool.name)
    yield Deployment(NAME, "it is needed; deploy it", "wait for it")
    client.delete_deployment(made)
    client.delete_work_pool(pool.name)


def start(deployment: Deployment, key: str) -> UUID:
    return deployment.start(key, {}, run_name="worked", tags=[f"tag-{key}"]).id


def test_a_flow_run_is_started_once_however_often_it_is_asked_for(deployment: Deployment) -> None:
    first, second = uuid4().hex, uuid4().hex
    started = start(deployment, first)
    assert start(deployment, first) == started != start(deployment, second)
    found = deployment.find(f"tag-{first}")
    assert found is not None
    assert found.id == started
    assert deployment.find("tag-of-nobody") is None


def test_a_state_is_set_until_the_flow_run_has_ended(deployment: Deployment) -> None:
    started = str(start(deployment, uuid4().hex))
    for state in (Completed(), Crashed()):
        deployment.set_state(started, state)
        found = deployment.look(started)
        assert found is not None
        assert found.state is not None
        assert found.state.is_completed()


def test_a_flow_run_that_was_deleted_is_not_there_and_no_error(
    deployment: Deployment, client: SyncPrefectClient
) -> None:
    started = start(deployment, uuid4().hex)
    client.delete_flow_run(started)
    assert deployment.look(str(started)) is None
    deployment.set_state(str(started), Crashed())


def test_a_server_that_lacks_the_deployment_is_told_with_the_remedy() -> None:
    lacked = Deployment("worked/nowhere", "it is needed; deploy it", "wait for it")
    for ask in (lacked.check, lambda: start(lacked, "key")):
        with pytest.raises(MissingPrerequisite, match="it is needed; deploy it"):
            ask()


def test_a_server_that_is_away_is_an_error_of_ours(deployment: Deployment) -> None:
    away = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(away):
        for ask in (deployment.check, lambda: start(deployment, "key"), lambda: deployment.find("tag")):
            with pytest.raises(EngineError, match=r"does not do what is asked \(.*\); wait for it"):
                ask()


def test_a_training_whose_flow_run_was_deleted_is_lost(
    deployment: Deployment, client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "FINE_TUNE", replace(train.FINE_TUNE, name=deployment.name))
    run = build_run(tmp_path, until=StageAt("mix", 0))

    @flow(name="driver")
    def drive() -> list[str]:
        runs = FineTuneRuns(run, StageAt("train", 0))
        training = runs.attempt(1)
        assert runs.attempt(1).id == training.id
        client.delete_flow_run(training.id)
        return [str(each.state.type.value) for each in (training, runs.look(training)) if each.state]

    assert drive() == ["SCHEDULED", "CRASHED"]


@pytest.mark.parametrize(("worker", "ends"), [("process", "CRASHED"), ("kubernetes", "COMPLETED")])
def test_a_training_that_does_not_begin_is_lost_unless_its_worker_makes_a_container_for_it(
    deployment: Deployment,
    client: SyncPrefectClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    worker: str,
    ends: str,
) -> None:
    monkeypatch.setattr(train, "FINE_TUNE", replace(train.FINE_TUNE, name=deployment.name))
    monkeypatch.setattr(train, "_PENDING_LOOKS", 3)
    run = build_run(tmp_path, until=StageAt("mix", 0))
    looks: list[object] = []

    def note(training: FlowRun) -> None:
        looks.append(training)
        if len(looks) > 2 * train._PENDING_LOOKS:
            client.set_flow_run_state(training.id, Completed(), force=True)

    @flow(name="driver")
    def drive() -> str:
        runs = FineTuneRuns(run, StageAt("train", 0))
        training = runs.attempt(1)
        client.update_flow_run_labels(training.id, {"prefect.worker.type": worker})
        client.set_flow_run_state(training.id, Pending(), force=True)
        ended = runs.wait(training, training_lease(run, StageAt("train", 0)), note, poll_seconds=0)
        return str(ended.state and ended.state.type.value)

    assert drive() == ends
