"""The Prefect server: where none has to stand, where one should, and what `tapir deploy` put on it."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate

from flows.commands.diagnosis import checks
from flows.commands.diagnosis.checks import Check, Finding, checks_of, examine, server_parts
from flows.deploy import automations, deploy
from flows.prefect_server import server as prefect_server
from flows.prefect_server.caretaker import POOLS
from flows.prefect_server.server import DEPLOYMENTS, own_settings
from tapir_core.paths import SERVER_RECORD
from tests.conftest import StandingServer


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_no_server_has_to_stand(tmp_path: Path) -> None:
    (found,) = examine([server_check(str(tmp_path))])
    assert found.level == "ok"
    assert "tapir up" in found.found
    assert server_parts(str(tmp_path)) == []


def test_an_address_at_which_nothing_answers_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        api = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
        monkeypatch.setenv("PREFECT_API_URL", api)
        (found,) = examine([server_check(str(tmp_path))])
    assert found.level == "fault"
    assert api in found.found
    assert "unset the variable" in found.remedy


def test_a_server_of_tapir_up_that_is_gone_is_started_again_with_it(tmp_path: Path) -> None:
    record = tmp_path / SERVER_RECORD
    record.parent.mkdir()
    record.write_text(
        json.dumps({"address": "http://127.0.0.1:1", "pid": 2**22 + 1, "process_started": 0.0, "boot_id": ""})
    )
    (found,) = examine([server_check(str(tmp_path))])
    assert found.level == "fault"
    assert "tapir up" in found.remedy


@pytest.fixture
def _on_server(
    standing_prefect: StandingServer, prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment as a command leaves it, put back afterwards."""
    for name, value in {**own_settings(str(tmp_path)), "PREFECT_API_URL": standing_prefect.api}.items():
        monkeypatch.setenv(name, value)


def server_check(root: str) -> Check:
    [found] = [each for each in checks_of(root) if each.part == "Prefect server"]
    return found


def look(root: Path) -> dict[str, Finding]:
    return {each.part: each for each in examine([server_check(str(root)), *server_parts(str(root))])}


@pytest.mark.usefixtures("_on_server")
def test_what_a_server_lacks_is_made_by_deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "POOLS", ("no-pool",))
    monkeypatch.setattr(prefect_server, "DEPLOYMENTS", ("no/flow",))
    monkeypatch.setattr("flows.deploy.AUTOMATIONS", {"none": "nothing is done"})
    found = look(tmp_path)
    assert found["Prefect server"].level == "ok"
    for part in ("work pools", "deployments", "automations"):
        assert found[part].level == "fault"
        assert "tapir deploy" in found[part].remedy
    assert "python -m flows.server_away worker start --type process --pool no-pool" in found["workers"].remedy


@pytest.fixture
def _as_it_was() -> Iterator[None]:
    """Nothing of ours stays on the server, which tests elsewhere expect without it."""
    yield
    with get_client(sync_client=True) as client:
        for name in DEPLOYMENTS:
            deployment = client.read_deployment_by_name(name).id
            client.delete_resource_owned_automations(f"prefect.deployment.{deployment}")
            client.delete_deployment(deployment)
        for pool in POOLS:
            client.delete_work_pool(pool)
        for each in automations():
            client.delete_automation(client.read_automations_by_name(each.name)[0].id)


@pytest.mark.usefixtures("_on_server", "_as_it_was")
def test_a_second_deploy_makes_nothing_and_all_of_it_is_found(standing_prefect: StandingServer, tmp_path: Path) -> None:
    deploy(str(tmp_path), again=False)
    assert deploy(str(tmp_path), again=False) == []
    with get_client(sync_client=True) as client:
        assert all(len(client.read_automations_by_name(each.name)) == 1 for each in automations())
    found = look(tmp_path)
    assert {part: each.level for part, each in found.items() if part != "workers"} == {
        "Prefect server": "ok",
        "work pools": "ok",
        "deployments": "ok",
        "automations": "ok",
    }
    assert found["workers"].level == "fault", "none was started"


@pytest.mark.usefixtures("_on_server", "_as_it_was")
def test_a_deployment_that_an_earlier_version_applied_is_applied_again(
    standing_prefect: StandingServer, tmp_path: Path
) -> None:
    deploy(str(tmp_path), again=False)
    with get_client(sync_client=True) as client:
        now = client.read_deployment_by_name("evaluate/evaluate")
        client.update_deployment(now.id, DeploymentUpdate(entrypoint="flows.forms.evaluate.evaluate_from_form"))
        applied = look(tmp_path)["deployments"]
        assert (applied.level, "another version of tapir" in applied.found) == ("fault", True)
        assert deploy(str(tmp_path), again=False) == ["deployment evaluate/evaluate"]
        assert client.read_deployment_by_name("evaluate/evaluate").entrypoint == now.entrypoint


@pytest.mark.usefixtures("_on_server", "_as_it_was")
def test_an_automation_that_is_off_or_gone_is_told_with_what_it_leaves_undone(
    standing_prefect: StandingServer, tmp_path: Path
) -> None:
    deploy(str(tmp_path), again=False)
    retry, went_on = "retry-a-run-that-stopped-in-judging", "retry-a-run-that-went-on-without-verdicts"
    assert f"{went_on} (off)" in look(tmp_path)["automations"].found, "as deployed, and as meant"
    with get_client(sync_client=True) as client:
        [held] = client.read_automations_by_name(retry)
        client.pause_automation(held.id)
        found = look(tmp_path)["automations"]
        assert (found.level, found.remedy) == ("warning", "resume it in the UI")
        assert f"{retry!r} is paused, so that a run that its judge stopped waits" in found.found
        client.delete_automation(held.id)
    found = look(tmp_path)["automations"]
    assert found.level == "fault"
    assert f"not there: {retry!r}" in found.found
    deploy(str(tmp_path), again=True)
    assert look(tmp_path)["automations"].level == "ok", "the remedy helps"
