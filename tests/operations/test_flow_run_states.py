"""The buttons of a flow run, killed processes and a server that is away: what was asked is never asked again.

Teacher, judge and student are one stand-in outside the system, so that no engine is needed and every call is counted.
"""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator

import psutil
import pytest

from tapir_core.stages import StageAt
from tests.doubles.standin import StandinServer
from tests.harness.flow_run import FlowRun
from tests.harness.stand_ins import RequestLog
from tests.harness.standing_root import StandingRoot
from tests.operations.engineless_runs import CONCURRENCY, EnginelessRuns

pytestmark = pytest.mark.operations

CHILDREN_SECONDS = 15
AWAY_SECONDS = 45


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnginelessRuns]:
    folder = tmp_path_factory.mktemp("states")
    log = folder / "standin.jsonl"
    # A worker that looks for work often; every start of a flow run would wait 10 seconds otherwise.
    often = {"PREFECT_WORKER_QUERY_SECONDS": "2"}
    with StandinServer(latency_ms=150, log_path=log) as standin, StandingRoot(folder, exported=often) as root:
        root.up()
        # Room for several runs: after a kill the next one would wait two minutes for the machine.
        root.ask("/v2/concurrency_limits/", {"name": f"distill-on-{socket.gethostname()}", "limit": 9})
        yield EnginelessRuns(root, standin.base_url, RequestLog(log))


@pytest.fixture
def root(runs: EnginelessRuns) -> StandingRoot:
    return runs.root


@pytest.fixture
def calls(runs: EnginelessRuns) -> RequestLog:
    """What the stand-in answers from here on."""
    return runs.calls.from_now_on()


def seconds_until_gone(*processes: psutil.Process) -> float:
    began = time.monotonic()
    assert psutil.wait_procs(processes, timeout=60)[1] == []
    return time.monotonic() - began


def stop(flow_run: FlowRun, button: str) -> float:
    """Press a button of a flow run at work; how many seconds later its process was gone."""
    process = flow_run.process()
    flow_run.press(button)
    return seconds_until_gone(process)


def states_of_tasks(flow_run: FlowRun) -> set[str]:
    return {name.split()[1] for name in flow_run.task_runs()}


def test_a_suspended_run_ends_soon_and_goes_on_when_it_is_resumed(
    root: StandingRoot, runs: EnginelessRuns, calls: RequestLog
) -> None:
    flow_run = runs.start("suspended", until="mix@0", seed=1)
    calls.wait_for(50)
    took = stop(flow_run, "suspend")
    state = flow_run.state()
    assert (state.type, state.name) == ("PAUSED", "Suspended")
    assert re.search(r"Next stage: label\. Resume goes on from there until 20.* UTC; after that, Retry", state.message)
    asked = len(calls.answered())
    assert asked < 200, "calls that waited to be sent were left"
    root.wait_until(lambda: states_of_tasks(flow_run) == {"Completed", "Cancelled"})
    assert root.artifacts("suspended") == ["suspended-spend"]
    print(f"suspended {took:.1f} s after the button, with {asked} calls made")

    flow_run.press("resume")
    state = flow_run.wait_for()
    assert state.name == "Completed", state
    assert root.run("suspended").holds(StageAt("mix", 0)) is not None
    assert calls.answered_again() == 0


def test_a_run_suspended_within_a_round_goes_on_in_the_middle_of_it(
    root: StandingRoot, runs: EnginelessRuns, calls: RequestLog
) -> None:
    runs.build("within", StageAt("evaluate", 0), seed=2)
    flow_run = runs.start("within", until="select@1", seed=2)
    calls.wait_for(10)
    stop(flow_run, "suspend")
    assert "Next stage: answer (round 1)" in flow_run.state().message
    assert [each.state().name for each in root.flow_runs(name="round-1")] == ["Cancelled"]

    flow_run.press("resume")
    state = flow_run.wait_for()
    assert state.name == "Completed", state
    assert [each.state().name for each in root.flow_runs(name="round-1")] == ["Completed"], "it went on, no second one"
    assert calls.answered_again() == 0


def test_a_suspended_and_cancelled_comparison_goes_on_in_the_middle_of_its_run(
    root: StandingRoot, runs: EnginelessRuns, calls: RequestLog
) -> None:
    flow_run, reference = runs.compare("arms", seed=12), "arms-multi_round-s12"
    calls.wait_for(40)
    stop(flow_run, "suspend")
    state = flow_run.state()
    assert (state.type, state.name) == ("PAUSED", "Suspended")
    assert "Runs that are finished stay finished. Resume goes on from there" in state.message
    assert [each.state().name for each in root.flow_runs(name=reference)] == ["Cancelled"]

    asked = len(calls.answered())
    flow_run.press("resume")
    calls.wait_for(asked + 40)
    assert len(root.flow_runs(name=reference)) == 1, "it went on, no second one"
    took = stop(flow_run, "cancel")
    assert took < CHILDREN_SECONDS
    assert flow_run.wait_for_message("Retry goes on").name == "Cancelled"

    flow_run.retry_until_it_goes_on()
    state = flow_run.wait_for()
    assert state.name == "Failed", "its backbone cannot be trained"
    assert f"2 runs are not finished:\n{reference}: " in state.message
    assert root.run(reference).holds(StageAt("mix", 0)) is not None
    assert calls.answered_again() <= CONCURRENCY


def test_a_cancelled_run_ends_at_once_and_retry_asks_only_for_the_rest(
    root: StandingRoot, runs: EnginelessRuns, calls: RequestLog
) -> None:
    flow_run = runs.start("cancelled", until="mix@0", seed=3)
    calls.wait_for(50)
    took = stop(flow_run, "cancel")
    assert took < CHILDREN_SECONDS
    assert flow_run.wait_for_message("Retry goes on").name == "Cancelled"
    root.wait_until(lambda: states_of_tasks(flow_run) == {"Completed", "Cancelled"})
    assert root.artifacts("cancelled") == ["cancelled-spend"]
    print(f"cancelled {took:.1f} s after the button")

    flow_run.retry_until_it_goes_on()
    state = flow_run.wait_for()
    assert state.name == "Completed", state
    assert calls.answered_again() <= CONCURRENCY, "only what was in flight"


def test_a_cancelled_run_takes_its_children_along(root: StandingRoot, runs: EnginelessRuns) -> None:
    own = 'teacher.endpoint={ type = "standin", latency_ms = 300 }'
    flow_run = runs.start("children", until="mix@0", seed=10, overrides=[own])
    root.wait_until(lambda: flow_run.children() != [])
    family = [flow_run.process(), *flow_run.children()]
    assert any("standin" in " ".join(each.cmdline()) for each in family)
    flow_run.press("cancel")
    took = seconds_until_gone(*family)
    assert took < CHILDREN_SECONDS
    assert flow_run.wait_for("Cancelled")
    print(f"cancelled, children gone {took:.1f} s after the button")


def test_a_killed_run_is_crashed_and_retry_goes_on_at_another_process(
    root: StandingRoot, runs: EnginelessRuns, calls: RequestLog
) -> None:
    flow_run = runs.start("killed", until="mix@0", seed=4)
    calls.wait_for(50)
    flow_run.process().kill()
    assert flow_run.wait_for_message("Retry goes on").name == "Crashed"
    flow_run.retry_until_it_goes_on()
    assert flow_run.wait_for("Completed", "Failed").name == "Completed"
    assert calls.answered_again() <= CONCURRENCY


def test_the_run_of_a_killed_worker_goes_on_at_another_worker(
    root: StandingRoot, runs: EnginelessRuns, calls: RequestLog
) -> None:
    flow_run = runs.start("orphaned", until="mix@0", seed=5)
    calls.wait_for(50)
    process, worker = flow_run.process(), root.worker("tapir-cpu")
    worker.kill()
    assert seconds_until_gone(process) < CHILDREN_SECONDS
    if flow_run.state().name != "Crashed":
        # What the automation does after minutes without a sign of life, when the process had no time to say so itself
        # (tests/flows/prefect_server/test_automations.py).
        flow_run.set_state({"type": "CRASHED", "name": "Crashed", "message": "No sign of life."})
    flow_run.press("retry")
    assert flow_run.wait_for("Completed", "Failed").name == "Completed"
    assert calls.answered_again() <= CONCURRENCY


def test_the_same_name_started_twice_is_refused_with_the_address_of_the_first(
    root: StandingRoot, runs: EnginelessRuns, calls: RequestLog
) -> None:
    slowly = ["calls.concurrency=1"]
    first = runs.start("twice", until="mix@0", seed=6, overrides=slowly)
    calls.wait_for(10)
    second = runs.start("twice", until="mix@0", seed=6, overrides=slowly)
    state = second.wait_for()
    assert state.name == "Failed"
    assert re.search(rf"driven by process \d+ on \S+, flow run {first.page}, since 20", state.message)
    assert first.page in root.tapir(*runs.words("twice", until="mix@0", seed=6), code=1)
    assert first.state().name == "Running"
    first.press("cancel")
    assert first.wait_for("Cancelled")


@pytest.mark.parametrize("started", ["in the UI", "on the command line"])
def test_a_server_that_is_away_loses_nothing(
    root: StandingRoot, runs: EnginelessRuns, calls: RequestLog, started: str
) -> None:
    name, seed = f"away-{started.split()[-1]}", 7 if started == "in the UI" else 8
    if started == "in the UI":
        flow_run = runs.start(name, until="mix@0", seed=seed)
    else:
        driver = root.begin(*runs.words(name, until="mix@0", seed=seed))
    calls.wait_for(100)
    if started != "in the UI":
        [flow_run] = root.flow_runs(name=name)
    root.keep_server_away(AWAY_SECONDS)
    assert flow_run.wait_for().name == "Completed"
    if started != "in the UI":
        assert driver.wait(timeout=60) == 0
    assert root.run(name).holds(StageAt("mix", 0)) is not None
    assert calls.answered_again() == 0


def test_cancel_is_heard_after_the_server_was_away(root: StandingRoot, runs: EnginelessRuns, calls: RequestLog) -> None:
    long = ["calls.concurrency=1", "data.pool.rows=900"]
    flow_run = runs.start("hears", until="mix@0", seed=11, overrides=long)
    calls.wait_for(10)
    root.keep_server_away(AWAY_SECONDS)
    took = stop(flow_run, "cancel")
    assert flow_run.wait_for("Cancelled")
    print(f"cancelled {took:.1f} s after the button")


def test_an_interrupted_command_leaves_a_state_that_names_it(
    root: StandingRoot, runs: EnginelessRuns, calls: RequestLog
) -> None:
    words = runs.words("interrupted", until="mix@0", seed=9)
    driver = root.begin(*words)
    calls.wait_for(30)
    [flow_run] = root.flow_runs(name="interrupted")
    os.kill(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=60) == 130
    state = flow_run.wait_for("Interrupted")
    flow_run.wait_for_message(" ".join(words[:4]))
    assert state.type == "CANCELLED"
