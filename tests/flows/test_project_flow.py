"""What a flow of ours tells Prefect of the children that work for it."""

import logging
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName, LogFilter, LogFilterFlowRunId
from prefect.context import get_run_context
from prefect.flow_engine import run_flow
from prefect.states import AwaitingRetry

from flows.project_flow import project_flow
from tasks.engines.logs import follow_log, tell

pytestmark = pytest.mark.usefixtures("prefect_server")


@project_flow("inner", run_name="inner")
def inner(log: str) -> dict[str, str]:
    Path(log).write_text("ERROR:    of the inner flow's time\n")
    return {"id": str(get_run_context().flow_run.id)}


@project_flow("outer", run_name="outer")
def outer(log: str) -> dict[str, str]:
    with follow_log("student server", Path(log)):
        found: dict[str, str] = inner(log)
        tell(logging.INFO, "told by a task")
    return {"outer": str(get_run_context().flow_run.id), "inner": found["id"]}


def test_the_log_of_a_child_is_in_the_log_of_the_flow_run_that_was_at_work(tmp_path: Path) -> None:
    log = tmp_path / "student.log"
    runs = outer(str(log))
    assert told(runs["inner"]) == [(logging.ERROR, f"student server ({log}): of the inner flow's time")]
    assert (logging.INFO, "told by a task") in told(runs["outer"])


@project_flow("warned", run_name="warned")
def warned() -> dict[str, str]:
    text = "the database is away, told by a thread without a flow run"
    thread = threading.Thread(target=lambda: logging.getLogger("tapir_core.calls.store_writer").warning(text))
    thread.start()
    thread.join()
    return {"id": str(get_run_context().flow_run.id)}


def test_what_our_modules_warn_of_is_in_the_log_of_the_flow_run_that_was_at_work() -> None:
    handlers = list(logging.getLogger("tapir_core").handlers)
    run = warned()["id"]
    assert told(run) == [(logging.WARNING, "the database is away, told by a thread without a flow run")]
    assert logging.getLogger("tapir_core").handlers == handlers


def told(flow_run_id: str) -> list[tuple[int, str]]:
    """The logs of a flow run that Prefect did not write itself; they are sent in batches."""
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            found = [(each.level, each.message) for each in client.read_logs(log_filter=wanted)]
            ours = [each for each in found if "told" in each[1] or "student server" in each[1]]
            if ours:
                return ours
            assert time.monotonic() < deadline
            time.sleep(0.1)


BEGUN: list[int] = []


@project_flow("child", run_name="child-{number}", child=True)
def child(number: int) -> dict[str, int]:
    BEGUN.append(number)
    return {"number": number}


@project_flow("parent", run_name="parent")
def parent() -> dict[str, int]:
    found: dict[str, int] = child(1)
    if len(BEGUN) == 1:
        raise RuntimeError("after its child")
    return found


def test_a_child_that_was_done_is_begun_anew_when_its_parent_is_retried() -> None:
    """What of it is to be redone, the run folder knows, and not what it returned before."""
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(parent)
        with pytest.raises(RuntimeError, match="after its child"):
            run_flow(parent, flow_run=flow_run)
        client.set_flow_run_state(flow_run.id, AwaitingRetry(scheduled_time=datetime.now(UTC)), force=True)
        assert run_flow(parent, flow_run=client.read_flow_run(flow_run.id)) == {"number": 1}
        assert BEGUN == [1, 1]
        started = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["child-1"])))
    assert [each.state_name for each in started] == ["Completed", "Completed"]
