"""*Suspend* of a flow run of a deployment, as the engine of a worker meets it: in this process, without the worker."""

import contextvars
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.states import Suspended

from flows.forms import form_flow, of_one_run
from flows.project_flow import project_flow
from flows.steps import run_stages
from tapir_core.run_folder import RunFolder, RunRef, open_run
from tapir_core.stages import StageAt
from tasks.runtime import close_all
from tests.doubles.provider import FakeProvider
from tests.flows.test_steps import INGREDIENTS
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")

TEACH = StageAt("teach")
ROWS = 60


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(latency_seconds=0.1) as provider:
        yield provider


@pytest.fixture
def run(tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    monkeypatch.setenv("TAPIR_ROOT", str(tmp_path))
    endpoint = {"type": "openai", "base_url": provider.base_url, "model": "m", "identity": "i", "api_key_env": ""}
    config = make_config(
        tmp_path,
        data={"pool": {"type": "standin", "rows": ROWS}},
        teacher={"endpoint": endpoint},
        calls={"rows_per_shard": 10, "concurrency": 2},
    )
    yield open_run(config, INGREDIENTS)
    close_all()


@project_flow("child", run_name="child-of-{ref.name}", child=True)
def teach_below(ref: RunRef) -> int:
    rows: int = run_stages(ref, [TEACH])[TEACH].rows
    return rows


@form_flow("teach")
@of_one_run
def teach(run: str, root: str) -> str:
    ref = RunRef(root, run)
    if not RunFolder(ref).holds(StageAt("pool")):
        run_stages(ref, [StageAt("pool")])
    try:
        return f"{teach_below(ref)} taught"
    finally:
        close_all()


def start(client: SyncPrefectClient, run: RunFolder) -> FlowRun:
    """A flow run of a deployment, as a worker finds it."""
    deployment = client.create_deployment(client.create_flow(teach), "teach")
    parameters = {"run": run.ref.name, "root": run.ref.root}
    return client.create_flow_run_from_deployment(deployment, parameters=parameters)


def suspend_after(calls: int, provider: FakeProvider, flow_run: FlowRun) -> threading.Thread:
    """Press *Suspend* when so many calls were made."""

    def suspend() -> None:
        while len(provider.calls) < calls:
            time.sleep(0.01)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Suspended(timeout_seconds=300))

    # The settings that name the server are the context's.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(suspend,))
    thread.start()
    return thread


def state_of(client: SyncPrefectClient, flow_run: FlowRun) -> State:
    state = client.read_flow_run(flow_run.id).state
    assert state is not None
    return state


@pytest.mark.slow
def test_what_is_in_flight_ends_nothing_more_is_sent_and_a_resumed_run_asks_for_the_rest(
    run: RunFolder, provider: FakeProvider
) -> None:
    with get_client(sync_client=True) as client:
        flow_run = start(client, run)
        thread = suspend_after(12, provider, flow_run)
        with pytest.raises(Pause):
            run_flow(teach, flow_run=flow_run)
        thread.join()
        sent = len(provider.calls)
        assert 12 <= sent < ROWS
        state = state_of(client, flow_run)
        assert (state.type, state.name, state.state_details.pause_reschedule) == (StateType.PAUSED, "Suspended", True)
        assert "Next stage:" in state.message
        assert "Resume goes on from there until 20" in state.message
        named = FlowRunFilter(name=FlowRunFilterName(any_=[f"child-of-{run.ref.name}"]))
        (child,) = client.read_flow_runs(flow_run_filter=named)
        assert child.state_name == "Cancelled"

        client.resume_flow_run(flow_run.id)
        run_flow(teach, flow_run=client.read_flow_run(flow_run.id))
        assert state_of(client, flow_run).message == f"{ROWS} taught"
    assert len(provider.calls) == len(set(provider.prompts())) == ROWS
