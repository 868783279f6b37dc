"""The buttons of a flow run, killed processes and a server that is away: what was asked is never asked again.

Teacher, judge and student are one stand-in outside the system, so that no engine is needed and every call is counted.
"""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from tapir_core.stages import StageAt
from tapir_core.standin.running import StandinServer
from tests.operations.deployed_runs import CONCURRENCY, ROOT, System, wait_until

pytestmark = pytest.mark.operations

CHILDREN_SECONDS = 15
AWAY_SECONDS = 45


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("states")
    log = folder / "standin.jsonl"
    with StandinServer(latency_ms=150, log_path=log) as standin:
        system = System(folder, standin.base_url, log)
        system.up()
        yield system
        system.down()


class Calls:
    """What the stand-in has answered since the test began."""

    def __init__(self, system: System) -> None:
        self._system, self._before = system, len(system.asked())

    def made(self) -> list[str]:
        return self._system.asked()[self._before :]

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.made()) >= count, lambda: f"{len(self.made())} of {count} calls")

    def twice(self) -> int:
        return sum(count - 1 for count in Counter(self.made()).values())


@pytest.fixture
def calls(system: System) -> Calls:
    return Calls(system)


def seconds_until_gone(process: psutil.Process) -> float:
    began = time.monotonic()
    assert psutil.wait_procs([process], timeout=60)[1] == []
    return time.monotonic() - began


def states_of(system: System, flow_run: str) -> set[str]:
    """In which states the task runs of a flow run are."""
    return {name.split()[1] for name in system.task_runs(flow_run)}


def test_a_suspended_run_ends_soon_and_goes_on_when_it_is_resumed(system: System, calls: Calls) -> None:
    flow_run = system.start("suspended", until="mix@0", seed=1)
    calls.wait_for(50)
    process = system.process_of(flow_run)
    system.press(flow_run, "suspend")
    took = seconds_until_gone(process)
    state = system.state(flow_run)
    assert (state["type"], state["name"]) == ("PAUSED", "Suspended")
    assert re.search(
        r"Next stage: label\. Resume goes on from there until 20.* UTC; after that, Retry", state["message"]
    )
    asked = len(calls.made())
    assert asked < 200, "calls that waited to be sent were left"
    wait_until(lambda: states_of(system, flow_run) == {"Completed", "Cancelled"})
    assert system.artifacts("suspended") == ["suspended-spend"]
    print(f"suspended {took:.1f} s after the button, with {asked} calls made")

    system.press(flow_run, "resume")
    state = system.wait_for_state(flow_run, "Completed", "Failed", "Crashed")
    assert state["name"] == "Completed", state
    assert system.folder("suspended").holds(StageAt("mix", 0)) is not None
    assert calls.twice() == 0


def test_a_run_suspended_within_a_round_goes_on_in_the_middle_of_it(system: System, calls: Calls) -> None:
    system.build("within", StageAt("evaluate", 0), seed=2)
    flow_run = system.start("within", until="select@1", seed=2)
    calls.wait_for(10)
    process = system.process_of(flow_run)
    system.press(flow_run, "suspend")
    seconds_until_gone(process)
    assert "Next stage: answer (round 1)" in system.state(flow_run)["message"]
    assert system.flow_runs("round-1") == ["Cancelled"]

    system.press(flow_run, "resume")
    state = system.wait_for_state(flow_run, "Completed", "Failed", "Crashed")
    assert state["name"] == "Completed", state
    assert sorted(system.flow_runs("round-1")) == ["Cancelled", "Completed"]
    assert calls.twice() == 0


def test_a_cancelled_run_ends_at_once_and_retry_asks_only_for_the_rest(system: System, calls: Calls) -> None:
    flow_run = system.start("cancelled", until="mix@0", seed=3)
    calls.wait_for(50)
    process = system.process_of(flow_run)
    system.press(flow_run, "cancel")
    took = seconds_until_gone(process)
    assert took < CHILDREN_SECONDS
    wait_until(lambda: "Retry goes on" in (system.state(flow_run)["message"] or ""))
    assert system.state(flow_run)["name"] == "Cancelled"
    wait_until(lambda: states_of(system, flow_run) == {"Completed", "Cancelled"})
    assert system.artifacts("cancelled") == ["cancelled-spend"]
    print(f"cancelled {took:.1f} s after the button")

    system.press(flow_run, "retry")
    state = system.wait_for_state(flow_run, "Completed", "Failed", "Crashed")
    assert state["name"] == "Completed", state
    assert calls.twice() <= CONCURRENCY, "only what was in flight"


def test_a_cancelled_run_takes_its_children_along(system: System) -> None:
    own = 'teacher.endpoint={ type = "standin", latency_ms = 300 }'
    flow_run = system.start("children", until="mix@0", seed=10, overrides=[own])
    wait_until(lambda: system.started_by(flow_run) != [])
    family = [system.process_of(flow_run), *system.started_by(flow_run)]
    assert any("standin" in " ".join(each.cmdline()) for each in family)
    began = time.monotonic()
    system.press(flow_run, "cancel")
    assert psutil.wait_procs(family, timeout=60)[1] == []
    took = time.monotonic() - began
    assert took < CHILDREN_SECONDS
    assert system.wait_for_state(flow_run, "Cancelled")
    print(f"cancelled, children gone {took:.1f} s after the button")


def test_a_killed_run_is_crashed_and_retry_goes_on_at_another_process(system: System, calls: Calls) -> None:
    flow_run = system.start("killed", until="mix@0", seed=4)
    calls.wait_for(50)
    system.process_of(flow_run).kill()
    wait_until(lambda: "Retry goes on" in (system.state(flow_run)["message"] or ""))
    assert system.state(flow_run)["name"] == "Crashed"
    system.press(flow_run, "retry")
    assert system.wait_for_state(flow_run, "Completed", "Failed")["name"] == "Completed"
    assert calls.twice() <= CONCURRENCY


def test_the_run_of_a_killed_worker_goes_on_at_another_worker(system: System, calls: Calls) -> None:
    flow_run = system.start("orphaned", until="mix@0", seed=5)
    calls.wait_for(50)
    process, worker = system.process_of(flow_run), system.worker()
    worker.kill()
    assert seconds_until_gone(process) < CHILDREN_SECONDS
    if system.state(flow_run)["name"] != "Crashed":
        # What the automation does after minutes without a sign of life (tests/flows/commands/test_automations.py), when
        # the process had no time to say so itself.
        system.set_state(flow_run, {"type": "CRASHED", "name": "Crashed", "message": "No sign of life."})
    system.press(flow_run, "retry")
    assert system.wait_for_state(flow_run, "Completed", "Failed")["name"] == "Completed"
    assert calls.twice() <= CONCURRENCY


def test_the_same_name_started_twice_is_refused_with_the_address_of_the_first(system: System, calls: Calls) -> None:
    slowly = ["calls.concurrency=1"]
    first = system.start("twice", until="mix@0", seed=6, overrides=slowly)
    calls.wait_for(10)
    second = system.start("twice", until="mix@0", seed=6, overrides=slowly)
    state = system.wait_for_state(second, "Completed", "Failed", "Crashed")
    address = f"http://127.0.0.1:{system.port}/runs/flow-run/{first}"
    assert state["name"] == "Failed"
    assert re.search(rf"driven by process \d+ on \S+, flow run {address}, since 20", state["message"])
    assert address in system.tapir("run", *system.arguments("twice", until="mix@0", seed=6), code=1)
    assert system.state(first)["name"] == "Running"
    system.press(first, "cancel")
    assert system.wait_for_state(first, "Cancelled")


@pytest.mark.parametrize("started", ["in the UI", "on the command line"])
def test_a_server_that_is_away_loses_nothing(system: System, calls: Calls, started: str) -> None:
    name, seed = f"away-{started.split()[-1]}", 7 if started == "in the UI" else 8
    if started == "in the UI":
        flow_run = system.start(name, until="mix@0", seed=seed)
    else:
        command = system.command("run", *system.arguments(name, until="mix@0", seed=seed))
        driver = subprocess.Popen(command, cwd=ROOT, env=system.environment())
    calls.wait_for(100)
    if started != "in the UI":
        [flow_run] = system.find_flow_runs(name)
    system.keep_server_away(AWAY_SECONDS)
    assert system.wait_for_state(flow_run, "Completed", "Failed", "Crashed")["name"] == "Completed"
    if started != "in the UI":
        assert driver.wait(timeout=60) == 0
    assert system.folder(name).holds(StageAt("mix", 0)) is not None
    assert calls.twice() == 0


def test_cancel_is_heard_after_the_server_was_away(system: System, calls: Calls) -> None:
    long = ["calls.concurrency=1", "data.pool.rows=900"]
    flow_run = system.start("hears", until="mix@0", seed=11, overrides=long)
    calls.wait_for(10)
    system.keep_server_away(AWAY_SECONDS)
    process = system.process_of(flow_run)
    system.press(flow_run, "cancel")
    took = seconds_until_gone(process)
    assert system.wait_for_state(flow_run, "Cancelled")
    print(f"cancelled {took:.1f} s after the button")


def test_an_interrupted_command_leaves_a_state_that_names_it(system: System, calls: Calls) -> None:
    words = system.arguments("interrupted", until="mix@0", seed=9)
    driver = subprocess.Popen(system.command("run", *words), cwd=ROOT, env=system.environment())
    calls.wait_for(30)
    [flow_run] = system.find_flow_runs("interrupted")
    os.kill(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=60) == 130
    state = system.wait_for_state(flow_run, "Crashed")
    wait_until(lambda: f"run {words[0]} --name interrupted" in (system.state(flow_run)["message"] or ""))
    assert state["type"] == "CRASHED"
