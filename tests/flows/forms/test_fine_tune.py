"""The flow of a GPU worker: what it refuses, what it leaves alone, what its state says."""

from pathlib import Path

import pytest
from prefect import flow, runtime
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.distill import distill
from flows.forms import fine_tune_from_form
from flows.prefect_server.server import DEPLOYMENTS
from tapir_core.errors import EngineError, MissingPrerequisite, NodeLost
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.runtime import close_all
from tasks.train import FINE_TUNE, check_trainer
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.tasks.trained_run import make_trained_run

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAPIR_ROOT", str(tmp_path / "runs"))
    return tmp_path


def test_it_trains_without_a_driver_and_says_what_came_of_it(root: Path) -> None:
    run = make_trained_run(root)
    state = fine_tune_from_form("example", 0, return_state=True)
    assert state.is_completed(), state.message
    assert state.message == "S_0: 4 steps, final loss 1.500, 250 tokens/s."
    assert run.holds(StageAt("train", 0)) is not None
    again = fine_tune_from_form("example", 0, return_state=True)
    assert again.message == "S_0 is there already; nothing was done."


def test_it_refuses_what_it_cannot_train(root: Path) -> None:
    build_run(root / "runs", until=StageAt("mix", 0))
    for number, why in [(1, "has no mixture of it yet"), (9, "has rounds 0 to 2")]:
        state = fine_tune_from_form("example", number, return_state=True)
        assert state.is_failed()
        assert why in state.message


def test_a_worker_with_another_backbone_trains_nothing(root: Path) -> None:
    run = make_trained_run(root)
    (root / "backbone" / "model.safetensors").write_bytes(b"others")
    state = fine_tune_from_form("example", 0, return_state=True)
    assert state.is_failed()
    assert "backbone on this machine is not the one" in state.message
    assert run.holds(StageAt("train", 0)) is None


def test_a_training_that_lost_a_node_counts_as_killed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_trained_run(root)

    def lose(*_: object) -> None:
        raise NodeLost("node 0a1b of this training is gone")

    monkeypatch.setattr("tasks.train.make_student", lose)
    state = fine_tune_from_form("example", 0, return_state=True)
    assert state.is_crashed(), "so that its driver starts another attempt"
    assert state.message.startswith("node 0a1b of this training is gone; the next attempt goes on from the last save")


def test_a_node_that_its_training_no_longer_asks_for_ends(root: Path) -> None:
    make_trained_run(root)
    state = fine_tune_from_form("example", 0, "0a1b", return_state=True)
    assert state.is_completed(), state.message
    assert state.message == "Ended: no training asks for this node now."


def test_a_run_that_trains_on_workers_is_refused_at_once_where_none_are(root: Path) -> None:
    config = make_config(root / "runs", training={"runs_on": "worker"})
    run = RunFolder(build_run(root / "runs", until=StageAt("pool"), config=config).ref)
    assert FINE_TUNE.name in DEPLOYMENTS
    with pytest.raises(MissingPrerequisite, match=r"`tapir up`.*training.runs_on=driver"):
        distill(run.ref)
    close_all()
    assert run.holds(StageAt("label")) is None


def test_a_run_whose_students_are_all_there_needs_nobody_to_train(root: Path) -> None:
    config = make_config(root / "runs", training={"runs_on": "worker"})
    run = RunFolder(build_run(root / "runs", config=config).ref)
    assert distill(run.ref)["run"] == run.ref.name
    close_all()


def test_a_server_that_is_away_is_an_error_of_ours(root: Path) -> None:
    config = make_config(root / "runs", training={"runs_on": "worker"})
    run = RunFolder(build_run(root / "runs", until=StageAt("pool"), config=config).ref)
    away = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(away), pytest.raises(EngineError, match="the Prefect server does not do what is asked"):
        check_trainer(run)


def test_driver_and_trainer_count_the_starts_of_a_flow_run_alike() -> None:
    @flow
    def count_starts() -> tuple[int, int]:
        with get_client(sync_client=True) as client:
            return runtime.flow_run.run_count, client.read_flow_run(runtime.flow_run.id).run_count

    assert count_starts() == (1, 1)
