"""What the state of a flow run that ended badly tells a person to do."""

import sys

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Failed, Scheduled

from flows.forms import form_flow, of_one_run
from flows.prefect_server.server import HURRY
from flows.project_flow import GO_ON, project_flow, tell_remedy
from tapir_core.errors import ConfigError, EngineError

pytestmark = pytest.mark.usefixtures("prefect_server")


def flow_run_of(name: str) -> FlowRun:
    named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
    with get_client(sync_client=True) as client:
        (flow_run,) = client.read_flow_runs(flow_run_filter=named)
        return flow_run


def state_of_last(name: str) -> State:
    state = flow_run_of(name).state
    assert state is not None
    return state


def test_a_run_of_the_command_line_that_fails_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/tapir", "run", "my config.toml", "--name", "a"])

    @project_flow("fails", run_name="a-failure")
    def fails() -> None:
        raise EngineError("the server died")

    with pytest.raises(EngineError):
        fails()
    state = state_of_last("a-failure")
    assert state.is_failed()
    assert state.message.endswith("the server died `tapir run 'my config.toml' --name a` goes on where it stopped.")


def test_an_interrupted_run_is_no_crash_and_names_its_command() -> None:
    @project_flow("interrupted-child", run_name="an-interrupted-child", child=True)
    def child() -> None:
        raise KeyboardInterrupt

    @project_flow("interrupted", run_name="an-interrupt")
    def interrupted() -> None:
        child()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    state, below = state_of_last("an-interrupt"), state_of_last("an-interrupted-child")
    assert (state.name, state.type, below.name) == ("Interrupted", StateType.CANCELLED, "Interrupted")
    assert "interrupt signal. `" in state.message
    assert "`" not in below.message


def test_a_flow_that_begins_where_another_was_interrupted_is_in_no_hurry() -> None:
    @project_flow("hurried", run_name="hurried")
    def hurried() -> None:
        raise KeyboardInterrupt

    @project_flow("begun-after-it", run_name="begun-after-it")
    def begun() -> bool:
        return HURRY.is_set()

    with pytest.raises(KeyboardInterrupt):
        hurried()
    assert HURRY.is_set()
    assert not begun()


def test_a_state_that_the_flow_has_told_itself_stays_as_it_is() -> None:
    @project_flow("told", run_name="told")
    def told() -> State:
        return Failed(message="what to do")

    told(return_state=True)
    assert state_of_last("told").message == "what to do"


def test_a_run_that_was_retried_meanwhile_stays_retried() -> None:
    @project_flow("retried", run_name="retried")
    def retried() -> State:
        return Failed(message="the server died")

    failed = retried(return_state=True)
    run = flow_run_of("retried")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)
    tell_remedy(retried, run, failed.model_copy(update={"type": StateType.CRASHED}))
    assert state_of_last("retried").name == "AwaitingRetry"


def test_a_child_flow_leaves_the_way_on_to_its_parent() -> None:
    @project_flow("child", run_name="a-child")
    def child() -> None:
        raise EngineError("the server died")

    @flow(name="parent")
    def parent() -> None:
        child(return_state=True)

    parent()
    assert state_of_last("a-child").message.endswith("the server died")


@pytest.mark.parametrize(("error", "remedy"), [(EngineError("died"), f"died {GO_ON}"), (ConfigError("wrong"), "wrong")])
def test_a_form_says_how_to_go_on_unless_its_values_are_wrong(error: Exception, remedy: str) -> None:
    @form_flow("form")
    @of_one_run
    def form(run: str) -> str:
        raise error

    form(f"form-{type(error).__name__}", return_state=True)
    assert state_of_last(f"form-{type(error).__name__}").message == remedy
