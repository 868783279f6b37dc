"""What Prefect's UI asks for, and that it refuses in the command line's words."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.events import DeploymentEventTrigger, Event, Resource
from prefect.flows import load_flow_from_entrypoint

from flows.commands.series import REGISTERED
from flows.driver import read_config
from flows.forms import (
    compare_from_form,
    distill_from_form,
    evaluate_from_form,
    fine_tune_from_form,
    retry_judge_from_form,
    serve_student_from_form,
    sweep_from_form,
)
from flows.prefect_server.caretaker import POOLS
from flows.prefect_server.server import DEPLOYMENTS
from tapir_core.config.run import RunSection
from tapir_core.errors import ConfigError
from tapir_core.paths import AVERAGE, BACKBONES

ROOT = Path(__file__).parents[3]
OF_A_RUN = [
    distill_from_form,
    retry_judge_from_form,
    evaluate_from_form,
    fine_tune_from_form,
    serve_student_from_form,
]
FORMS = [*OF_A_RUN, sweep_from_form, compare_from_form]


def fields(form: Any) -> dict[str, dict[str, Any]]:
    return form.parameters.properties


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_field_of_a_form_has_a_title_a_description_and_no_switch_between_types(form: Any) -> None:
    for name, field in fields(form).items():
        assert field["title"][0].isupper(), name
        assert len(field["description"]) > 20, name
        assert "type" in field, f"{name}: a person would have to choose between types first"
        assert field.get("default", "") is not None, name
    assert form.parameters.required == (["run"] if form in OF_A_RUN else []), "a schedule and an event fill in nothing"


def test_the_limits_of_a_form_are_the_configurations() -> None:
    own = RunSection.model_json_schema()["properties"]
    for form in OF_A_RUN:
        assert fields(form)["run"]["pattern"] == own["name"]["pattern"]
    assert fields(distill_from_form)["rounds"]["maximum"] == own["rounds"]["maximum"]
    for form in (retry_judge_from_form, fine_tune_from_form):
        assert fields(form)["round_number"]["maximum"] == own["rounds"]["maximum"]
    assert fields(serve_student_from_form)["after_round"]["maximum"] == AVERAGE == own["rounds"]["maximum"] + 1


def test_the_presets_are_the_shipped_configurations_of_a_run_and_comparisons_apart() -> None:
    shipped = [path.stem for path in sorted((ROOT / "configs").glob("*.toml")) if path != ROOT / BACKBONES]
    comparisons = [
        name for name in shipped if "run_seeds" in tomllib.loads((ROOT / f"configs/{name}.toml").read_text())
    ]
    for form, names in [
        (distill_from_form, [name for name in shipped if name not in comparisons]),
        (compare_from_form, comparisons),
    ]:
        assert fields(form)["preset"]["enum"] == names
        assert fields(form)["preset"]["default"] in names


def test_a_folder_without_presets_has_no_preset_for_a_default_and_asks_for_a_file(tmp_path: Path) -> None:
    look = """
from inspect import unwrap
from flows.forms import compare_from_form, distill_from_form
for form, given in ((distill_from_form, ["run"]), (compare_from_form, [])):
    field = form.parameters.properties["preset"]
    print(repr(field["default"]), "enum" in field)
    try:
        unwrap(form.fn)(*given)
    except Exception as error:
        print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TAPIR_ROOT": str(tmp_path), "PREFECT_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, env=environment, capture_output=True, text=True)
    first, refused, second, refused_too = done.stdout.splitlines()
    assert first == second == "'' False"
    assert f"neither Preset nor Configuration file is given, and {tmp_path / 'configs'} has no preset" in refused
    assert "give Comparison file: a TOML file on the worker" in refused_too


def test_every_deployment_names_a_flow_and_a_pool_and_no_path_of_a_machine() -> None:
    text = (ROOT / "deployments/prefect.yaml").read_text()
    entries = yaml.safe_load(text)["deployments"]
    found = [(load_flow_from_entrypoint(each["entrypoint"]), each) for each in entries]
    assert tuple(f"{flow.name}/{entry['name']}" for flow, entry in found) == DEPLOYMENTS
    assert {entry["work_pool"]["name"] for _, entry in found} <= set(POOLS)
    assert all(str(entry["work_pool"]["job_variables"]["working_dir"]) == "." for _, entry in found)


def test_a_sweep_starts_by_the_event_of_a_new_backbone_and_by_a_clock_that_stands_still() -> None:
    entries = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"]
    (sweep,) = [each for each in entries if each["entrypoint"].endswith(sweep_from_form.fn.__name__)]
    (schedule,), (trigger,) = sweep["schedules"], sweep["triggers"]
    assert (schedule["active"], bool(schedule["slug"])) == (False, True)
    assert sweep["concurrency_limit"] == 1
    found = DeploymentEventTrigger.model_validate(trigger)
    event = Event(event=REGISTERED, resource=Resource({"prefect.resource.id": "tapir.backbone.new"}))
    assert found.expect == {event.event}
    assert found.match.matches(event.resource)
    assert set(trigger["parameters"]) <= set(fields(sweep_from_form))


@pytest.mark.usefixtures("prefect_server")
def test_a_wrong_list_fails_the_sweep_with_every_problem(tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text('[[backbones]]\nname = "a b"\nbackbone = "org/name"\n')
    state = sweep_from_form(str(tmp_path / "list.toml"), return_state=True)
    assert state.is_failed()
    assert "2 problems" in state.message


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    "wrong",
    [
        {"overrides": ["judge.ordres=1"]},
        {"until": "sleep"},
        {"budget_usd": 5, "overrides": ['judge.endpoint={ type = "openai", model = "nobody", identity = "i" }']},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_value_fails_the_flow_run_with_the_command_lines_message(
    wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TAPIR_ROOT", str(tmp_path))
    state = distill_from_form("example", preset="quickstart", return_state=True, **wrong)
    words = [f"run.root={json.dumps(str(tmp_path))}", *(["budget.usd=5"] if "budget_usd" in wrong else [])]
    words += wrong.get("overrides", [])
    with pytest.raises(ConfigError) as refused:
        read_config("configs/quickstart.toml", words, "example", until=wrong.get("until"))
    assert state.is_failed()
    assert state.message == str(refused.value)


@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_is_not_there_is_said_not_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPIR_ROOT", str(tmp_path))
    for form in (retry_judge_from_form, serve_student_from_form):
        state = form("nothing", return_state=True)
        assert state.is_failed()
        assert "there is no run 'nothing'" in state.message
