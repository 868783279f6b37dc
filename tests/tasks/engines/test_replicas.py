"""A run's replicas seen from its driver: asked for, followed, replaced, dismissed; the workers are scripted."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tapir_core.calls import Endpoint
from tapir_core.config.student import ReplicasEngine
from tapir_core.errors import EngineError, MissingPrerequisite
from tapir_core.leases import ReplicaRegistry
from tasks.engines import replicas
from tasks.engines.replicas import Ended, ReplicaStudents
from tasks.engines.student_server import Student
from tests import waiting

wait_until = partial(waiting.wait_until, seconds=20, every=0.005)

STUDENT = Student(2, Path("nowhere"), "identity")
LACKS_DEPLOYMENT = "the deployment serve-student is not there; `tapir up`"


class ScriptedFleet:
    """Flow runs that do what the test says."""

    def __init__(self, registry: ReplicaRegistry) -> None:
        self.registry = registry
        self.asked: list[str] = []
        self.withdrawn: list[str] = []
        self.ends: dict[str, Ended] = {}
        self.begin: Callable[[str], None] = self.serve
        self.refusal = ""
        self.refused = 0

    def serve(self, replica: str) -> None:
        """Take it and serve at once; leave when asked to."""
        if self.registry.take(replica) is None:
            return
        self.registry.serve(replica, f"http://{replica}/v1", 4)
        threading.Thread(target=self._leave_when_asked, args=(replica,), daemon=True).start()

    def wait_for_a_worker(self, replica: str) -> None:
        """Nothing happens."""

    def fail(self, replica: str) -> None:
        self.ends[replica] = Ended("failed", "no GPU here")

    def die(self, replica: str) -> None:
        """Be killed before it served."""
        self.registry.take(replica)
        self.registry.abandon(replica)

    def ask(self, number: int, replica: str) -> None:
        if self.refusal:
            self.refused += 1
            raise MissingPrerequisite(self.refusal)
        assert number == 2
        self.asked.append(replica)
        self.begin(replica)

    def ended(self, replica: str) -> Ended | None:
        return self.ends.get(replica)

    def withdraw(self, replica: str) -> None:
        self.withdrawn.append(replica)

    def _leave_when_asked(self, replica: str) -> None:
        while self.registry.is_wanted(replica):
            time.sleep(0.01)
        self.ends.setdefault(replica, Ended("completed"))
        self.registry.remove(replica)


@pytest.fixture
def fleet(tmp_path: Path) -> ScriptedFleet:
    return ScriptedFleet(ReplicaRegistry(f"sqlite:///{tmp_path / 'store.sqlite'}", "a-run"))


@pytest.fixture
def host(fleet: ScriptedFleet) -> Iterator[ReplicaStudents]:
    host = open_host(fleet, replicas=2)
    yield host
    host.close()


def open_host(fleet: ScriptedFleet, *, leave_seconds: float = 60.0, **fields: object) -> ReplicaStudents:
    engine = ReplicasEngine.model_validate({"wait_seconds": 20, **fields})
    registry = ReplicaRegistry(str(fleet.registry._engine.url), "a-run")
    waits = {"look_seconds": 0.01, "leave_seconds": leave_seconds}
    return ReplicaStudents(engine, registry, fleet, key_of=lambda replica: f"key of {replica}", **waits)


def addresses(endpoint: Endpoint) -> set[str]:
    assert endpoint.live is not None
    return {each.base_url for each in endpoint.live.now}


def serve(host: ReplicaStudents, fleet: ScriptedFleet, count: int) -> Endpoint:
    endpoint = host.endpoint(STUDENT)
    wait_until(lambda: len(addresses(endpoint)) == count)
    return endpoint


def test_answers_say_what_gave_them(host: ReplicaStudents) -> None:
    assert host.in_words == f"vLLM in {host.engine.dtype}"


def test_nothing_is_asked_for_before_an_answer_is_missing(host: ReplicaStudents, fleet: ScriptedFleet) -> None:
    assert fleet.asked == []
    endpoint = host.endpoint(STUDENT)
    wait_until(lambda: len(addresses(endpoint)) == 2)
    assert host.endpoint(STUDENT) == endpoint, "all askers share one line of calls"
    assert len(fleet.asked) == 2
    assert endpoint.live is not None
    assert {(each.base_url, each.api_key) for each in endpoint.live.now} == {
        (f"http://{each}/v1", f"key of {each}") for each in fleet.asked
    }


def test_the_run_goes_on_with_the_first_that_serves_and_notices_late_ones(
    host: ReplicaStudents, fleet: ScriptedFleet
) -> None:
    fleet.begin = lambda replica: fleet.serve(replica) if len(fleet.asked) == 1 else None
    endpoint = serve(host, fleet, 1)
    fleet.serve(fleet.asked[1])
    wait_until(lambda: len(addresses(endpoint)) == 2)
    joins = fleet.registry.ask(2, "identity")
    fleet.serve(joins)
    wait_until(lambda: len(addresses(endpoint)) == 3)
    assert joins not in fleet.asked


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "its server died"])
def test_one_that_dies_in_service_is_replaced(host: ReplicaStudents, fleet: ScriptedFleet, killed: bool) -> None:
    endpoint = serve(host, fleet, 2)
    first, second = fleet.asked
    if killed:
        fleet.registry.abandon(first)
    else:
        fleet.ends[first] = Ended("failed", "the student server died")
        fleet.registry.remove(first)
    wait_until(lambda: len(fleet.asked) == 3)
    wait_until(lambda: addresses(endpoint) == {f"http://{each}/v1" for each in (second, fleet.asked[2])})


def test_one_that_a_person_cancels_is_not_replaced(host: ReplicaStudents, fleet: ScriptedFleet) -> None:
    endpoint = serve(host, fleet, 2)
    fleet.ends[fleet.asked[0]] = Ended("cancelled")
    fleet.registry.abandon(fleet.asked[0])
    wait_until(lambda: len(addresses(endpoint)) == 1)
    wait_until(lambda: len(fleet.registry.all()) == 1)
    assert len(fleet.asked) == 2


def test_when_none_can_start_everybody_is_told_why_and_it_is_not_tried_again(
    host: ReplicaStudents, fleet: ScriptedFleet
) -> None:
    fleet.begin = fleet.fail
    for _ in range(2):
        with pytest.raises(EngineError, match="no replica is left: failed: no GPU here"):
            host.endpoint(STUDENT)
    assert len(fleet.asked) == 2


def test_one_that_is_killed_again_and_again_before_it_serves_is_given_up(
    host: ReplicaStudents, fleet: ScriptedFleet
) -> None:
    fleet.begin = fleet.die
    with pytest.raises(EngineError, match="its process or its machine is gone"):
        host.endpoint(STUDENT)
    assert len(fleet.asked) <= 2 + replicas.MOST_CRASHES


def test_when_a_person_cancelled_all_of_them_the_next_that_asks_asks_anew(
    host: ReplicaStudents, fleet: ScriptedFleet
) -> None:
    fleet.begin = lambda replica: fleet.ends.update({replica: Ended("cancelled")})
    with pytest.raises(EngineError, match="no replica is left: cancelled"):
        host.endpoint(STUDENT)
    fleet.begin = fleet.serve
    assert addresses(serve(host, fleet, 2)) == {f"http://{each}/v1" for each in fleet.asked[2:]}


def test_when_no_worker_takes_one_the_wait_ends_with_where_to_look(fleet: ScriptedFleet) -> None:
    fleet.begin = fleet.wait_for_a_worker
    host = open_host(fleet, wait_seconds=0.1)
    with pytest.raises(EngineError, match=r"no replica serves after .* workers of the pool tapir-gpu"):
        host.endpoint(STUDENT)
    fleet.begin = fleet.serve
    assert len(addresses(host.endpoint(STUDENT))) == 1
    assert fleet.withdrawn == fleet.asked[:1]
    host.close()


def test_a_server_without_the_deployment_is_said_at_once(host: ReplicaStudents, fleet: ScriptedFleet) -> None:
    fleet.refusal = LACKS_DEPLOYMENT
    with pytest.raises(MissingPrerequisite, match="tapir up"):
        host.endpoint(STUDENT)
    assert fleet.registry.all() == []


def test_after_a_stop_nobody_holds_a_gpu_and_the_next_missing_answer_asks_anew(
    host: ReplicaStudents, fleet: ScriptedFleet
) -> None:
    endpoint = serve(host, fleet, 2)
    waiting = fleet.registry.ask(2, "identity")
    host.stop()
    assert fleet.registry.all() == []
    assert fleet.withdrawn == [waiting]
    assert addresses(endpoint) == set()
    assert addresses(serve(host, fleet, 2)) == {f"http://{each}/v1" for each in fleet.asked[2:]}


def test_a_stop_waits_for_no_dead_one(host: ReplicaStudents, fleet: ScriptedFleet) -> None:
    serve(host, fleet, 2)
    fleet.registry.take(dead := fleet.registry.ask(2, "identity"))
    fleet.registry.abandon(dead)
    host.stop()
    assert fleet.registry.all() == []


def test_one_that_lives_and_does_not_leave_is_named(fleet: ScriptedFleet) -> None:
    fleet.registry.take(stays := fleet.registry.ask(2, "identity"))
    with pytest.raises(EngineError, match=rf"{stays} do not leave, .* cancel their flow runs"):
        open_host(fleet, leave_seconds=0.1).stop()


def test_replicas_that_an_earlier_driver_left_are_used(host: ReplicaStudents, fleet: ScriptedFleet) -> None:
    fleet.serve(left := fleet.registry.ask(2, "identity"))
    never_taken = fleet.registry.ask(2, "identity")
    endpoint = serve(host, fleet, 2)
    assert f"http://{left}/v1" in addresses(endpoint)
    assert len(fleet.asked) == 1
    assert fleet.withdrawn == [never_taken]


def test_replicas_of_another_checkpoint_leave_first(host: ReplicaStudents, fleet: ScriptedFleet) -> None:
    before = serve(host, fleet, 2)
    after = host.endpoint(replace(STUDENT, identity="another identity"))
    assert addresses(before) == set()
    wait_until(lambda: len(addresses(after)) == 2)
    assert {each.checkpoint for each in fleet.registry.all()} == {"another identity"}


def test_who_waits_for_a_replica_gives_up_when_the_run_is_told_to_stop(
    host: ReplicaStudents, fleet: ScriptedFleet
) -> None:
    fleet.begin = fleet.wait_for_a_worker
    threading.Timer(0.05, host.abort).start()
    with pytest.raises(EngineError, match="told to stop"):
        host.endpoint(STUDENT)


def test_while_the_database_or_prefect_is_away_those_that_serve_go_on(
    host: ReplicaStudents, fleet: ScriptedFleet, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = serve(host, fleet, 2)
    fleet.refusal = "the Prefect server does not answer"
    fleet.registry.abandon(fleet.asked[0])
    wait_until(lambda: fleet.refused >= 5)
    assert caplog.text.count("the Prefect server does not answer") == 1, "told once, not at every look"
    assert addresses(endpoint) == {f"http://{fleet.asked[1]}/v1"}
    fleet.refusal = ""
    wait_until(lambda: len(addresses(endpoint)) == 2)
