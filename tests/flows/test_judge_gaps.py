"""What a run that ended without verdicts tells, so that retry-judge takes it up after a while, but not for ever."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events import DeploymentEventTrigger, Event, Resource
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker
from prefect.states import Running

from flows.distill import INCOMPLETE, MOST_RETRIES, retry_judge, tell_gaps
from flows.forms import retry_judge_from_form
from flows.project_flow import project_flow
from tapir_core.data.dataset import write_part
from tapir_core.errors import BudgetReached, MissingPrerequisite, TapirError, TooMuchMissing
from tapir_core.paths import RUN_ERROR
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks.runtime import close_all
from tests.run_builder import build_run
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")

ROOT = Path(__file__).parents[2]
JUDGE = StageAt("judge", 1)


def build(root: Path, name: str, *, until: StageAt) -> RunFolder:
    return build_run(root, until=until, config=make_config(root, run={"name": name}))


@project_flow("drive", run_name="drive")
def drive(ref: RunRef, error: TapirError | None = None, *, whole: bool = True) -> None:
    with tell_gaps(ref, whole=whole):
        if error is not None:
            raise error


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Events of a test go no further than its own process."""
    AssertingEventsClient.reset()
    EventsWorker.set_client_override(AssertingEventsClient)
    yield
    EventsWorker.set_client_override(None)


def told() -> list[Event]:
    """The events about verdicts that were sent so far."""
    EventsWorker.instance().wait_until_empty()
    EventsWorker.instance().drain()
    return [event for client in AssertingEventsClient.all for event in client.events if event.event == INCOMPLETE]


def in_judging(root: Path, name: str = "stopped") -> RunFolder:
    return build(root, name, until=StageAt("answer", 1))


@pytest.mark.parametrize("error", [TooMuchMissing("3 of 9 rows"), MissingPrerequisite("nothing answers there")])
def test_a_run_that_stops_in_judging_is_told_and_still_fails(tmp_path: Path, error: TapirError) -> None:
    state = drive(in_judging(tmp_path).ref, error, return_state=True)
    assert state.is_failed()
    [event] = told()
    assert event.resource.id == "tapir.run.stopped"
    assert (event.resource["tapir.run"], event.resource["tapir.judge"]) == ("stopped", "stopped")


def test_what_asking_again_cannot_mend_is_not_told(tmp_path: Path) -> None:
    drive(in_judging(tmp_path).ref, BudgetReached("usd"), return_state=True)
    drive(build(tmp_path, "taught", until=StageAt("label")).ref, TooMuchMissing("in teach"), return_state=True)
    drive(build(tmp_path, "whole", until=JUDGE).ref)
    assert told() == []


def test_a_run_that_went_on_without_verdicts_is_told_as_such(tmp_path: Path) -> None:
    run = build(tmp_path, "gaps", until=JUDGE)
    part = write_part(run.storage, JUDGE.folder, run.rows(JUDGE).head(-7))
    run.seal(JUDGE, [part], accepted_missing={"server": 7})
    drive(run.ref)
    assert [event.resource["tapir.judge"] for event in told()] == ["went on"]


def test_a_run_that_was_to_go_to_a_stage_only_is_not_taken_to_its_end(tmp_path: Path) -> None:
    """An arm of a comparison, whose next round is yet to be matched, among them."""
    run = in_judging(tmp_path, "until")
    drive(run.ref, TooMuchMissing("3 of 9 rows"), whole=False, return_state=True)
    close_all()
    assert told() == []


@pytest.mark.parametrize("whole", [True, False])
def test_verdicts_asked_again_take_a_run_to_its_end_only_where_it_was_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, whole: bool
) -> None:
    def away(*_: object) -> None:
        raise TooMuchMissing("3 of 9 rows")

    monkeypatch.setattr("flows.distill._retry_stage", away)
    ref = in_judging(tmp_path, f"whole-{whole}").ref
    assert retry_judge(ref, [JUDGE], whole=whole, return_state=True).is_failed()
    assert [event.resource["tapir.judge"] for event in told()] == (["stopped"] if whole else [])


def test_what_was_gone_on_with_or_cancelled_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_up: list[RunRef] = []

    def retry(ref: RunRef, *_: object, **__: object) -> object:
        taken_up.append(ref)
        raise TooMuchMissing("still away")

    monkeypatch.setattr("flows.forms.driver.worker_root", lambda: str(tmp_path))
    monkeypatch.setattr("flows.forms.whole_run.retry_run", retry)
    run = in_judging(tmp_path, "meanwhile")
    again = {"run": "meanwhile", "go_on": True, "only_if_stopped": True, "return_state": True}
    assert "does not stand stopped any more" in retry_judge_from_form(**again).message
    assert taken_up == []
    run.storage.write_bytes(RUN_ERROR, b"3 of 9 rows")
    assert retry_judge_from_form(**again).is_failed()
    assert taken_up == [run.ref]
    assert told() == []


def test_a_run_that_was_taken_up_often_is_left_alone(tmp_path: Path) -> None:
    ref = in_judging(tmp_path, "often").ref
    with get_client(sync_client=True) as client:
        for _ in range(MOST_RETRIES):
            client.create_flow_run(flow(lambda: None, name="retry-judge"), tags=["run-often"], state=Running())
    drive(ref, TooMuchMissing("again"), return_state=True)
    drive(in_judging(tmp_path, "other").ref, TooMuchMissing("at first"), return_state=True)
    assert [event.resource["tapir.run"] for event in told()] == ["other"]


def test_the_deployment_takes_up_what_stopped_after_a_while_and_the_rest_once_switched_on() -> None:
    entries = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"]
    (entry,) = [each for each in entries if each["entrypoint"].endswith(retry_judge_from_form.fn.__name__)]
    stopped, went_on = map(DeploymentEventTrigger.model_validate, entry["triggers"])
    for trigger, how in ((stopped, "stopped"), (went_on, "went on")):
        resource = Resource({"prefect.resource.id": "tapir.run.x", "tapir.run": "x", "tapir.judge": how})
        assert [each.match.matches(resource) for each in (stopped, went_on)] == [trigger is stopped, trigger is went_on]
        assert trigger.expect == {INCOMPLETE}
        assert trigger.schedule_after == timedelta(minutes=30)
        assert trigger.parameters is not None
        assert set(trigger.parameters) <= set(retry_judge_from_form.parameters.properties)
    assert (stopped.enabled, went_on.enabled) == (True, False)
