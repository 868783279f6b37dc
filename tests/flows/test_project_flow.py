"""What a flow of ours tells Prefect of the children that work for it."""

import logging
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.context import get_run_context

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
