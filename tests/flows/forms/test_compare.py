"""The deployment *compare*: each run below it, what it refuses, what it leaves in the UI, how it ends."""

from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from typer.testing import CliRunner

from flows.cli import app
from flows.forms import compare_from_form
from flows.prefect_server.server import TAG
from tapir_core.errors import EngineError
from tapir_core.paths import comparison_file
from tests.flows.built_comparison import BuiltRuns, lay_spec
from tests.tasks.test_artifacts import find_artifacts

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A comparison, and the root of the worker that it is started on."""
    monkeypatch.setenv("TAPIR_ROOT", str(tmp_path / "runs"))
    return lay_spec(tmp_path)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> BuiltRuns:
    built = BuiltRuns()
    monkeypatch.setattr("flows.forms._distil", built.distil)
    monkeypatch.setattr("tasks.train.count_round", built.count)
    return built


def compare(spec: Path, **fields: Any) -> State[Any]:
    state: State[Any] = compare_from_form(comparison_file=str(spec), **fields, return_state=True)
    return state


def read(state: State[Any]) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id)


def runs_below(state: State[Any]) -> list[FlowRun]:
    parent = FlowRunFilterParentFlowRunId(any_=[state.state_details.flow_run_id])
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=parent), sort=FlowRunSort.START_TIME_ASC
        )


def shown_by(state: State[Any]) -> str:
    """What a flow run shows of the comparison."""
    own = state.state_details.flow_run_id
    found = [each for each in find_artifacts("c-comparison") if each.key == "c-comparison"]
    [shown] = [each for each in found if each.flow_run_id == own]
    return str(shown.data)


def test_each_run_is_a_flow_run_below_the_comparison_which_shows_what_they_came_to_also_when_none_is_left(
    spec: Path, tmp_path: Path, engines: BuiltRuns
) -> None:
    state = compare(spec, only="random", run_seeds="1")
    assert state.is_completed(), state.message
    assert state.message.endswith(f"Page: {tmp_path / 'runs' / comparison_file('c', 'html')}")
    assert read(state).name == "c"
    below = runs_below(state)
    assert [each.name for each in below] == ["c-multi_round-s1", "c-random-s1"]
    assert all(each.state_name == "Completed" for each in below)
    assert [set(each.tags) for each in below] == [{TAG, f"run-{each.name}"} for each in below]
    assert {name for name, _ in engines.driven} == {"c-multi_round-s1", "c-random-s1"}
    assert "| Arm |" in shown_by(state)
    driven = len(engines.driven)
    again = compare(spec, only="random", run_seeds="1")
    assert again.is_completed(), again.message
    assert len(engines.driven) == driven
    assert runs_below(again) == []
    assert shown_by(again) == shown_by(state)


def test_a_run_that_fails_is_told_as_by_the_command_and_the_others_are_run(spec: Path, engines: BuiltRuns) -> None:
    engines.failing, engines.failure = ["c-random-s1"], EngineError("the trainer ended with 1")
    state = compare(spec, only="random,hard_only,equal_usd", run_seeds="1")
    assert state.is_failed()
    first, *told = state.message.splitlines()
    assert first == "2 runs are not finished:"
    assert told[0] == "c-random-s1: the trainer ended with 1"
    assert told[1].startswith("c-equal_usd-s1: it is matched to c-random-s1, which is not finished")
    assert told[1].endswith("what is stored is not asked again.")
    assert {each.name: each.state_name for each in runs_below(state)} == {
        "c-multi_round-s1": "Completed",
        "c-random-s1": "Failed",
        "c-hard_only-s1": "Completed",
    }
    assert "| Arm |" in shown_by(state), "what is finished"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"only": "rndom"}, ["--only", "rndom"]),
        ({"run_seeds": "7"}, ["--run-seeds", "7"]),
        ({"run_seeds": "one"}, ["--run-seeds", "one"]),
        ({"overrides": ["judge.ordres=1"]}, ["--set", "judge.ordres=1"]),
    ],
    ids=lambda each: str(each),
)
def test_a_wrong_value_is_refused_with_the_commands_message_before_anything_starts(
    spec: Path, engines: BuiltRuns, fields: dict[str, Any], words: list[str]
) -> None:
    state = compare(spec, **fields)
    refused = CliRunner().invoke(app, ["compare", str(spec), *words])
    assert state.is_failed()
    assert words[1].partition("=")[0] in state.message
    assert state.message == str(refused.exception)
    assert engines.driven == []


def test_a_wrong_comparison_is_refused_with_every_problem(spec: Path, engines: BuiltRuns) -> None:
    spec.write_text(spec.read_text().replace('"random", ', "").replace("run_seeds = [1, 2]", "run_seeds = [1]"))
    state = compare(spec)
    assert state.is_failed()
    assert "2 problems" in state.message
    assert "name more, or set verdict = false" in state.message
    assert engines.driven == []
