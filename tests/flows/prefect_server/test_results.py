"""Prefect's results of a root on S3: below it, as JSON, read from anywhere; the block that leads there has no key."""

import json
import os
import subprocess
import sys

import pytest

from flows.prefect_server.server import own_settings, results_setting, worker_command
from tapir_core.paths import PREFECT_RESULTS, SCRATCH_VARIABLE
from tapir_core.storage import Storage

ROOT = "s3://runs/all"
MADE = {"__class__": "tapir_core.data.dataset.DatasetRef", "data": {"path": "pool", "digest": "abab", "rows": 7}}

RUN = """
from flows.prefect_server.server import connect_prefect
from tapir_core.run_folder import RunRef

with connect_prefect(RunRef("s3://runs/all", "far")):
    from flows.project_flow import project_flow
    from tapir_core.data.dataset import DatasetRef
    from tasks._task import project_task

    @project_task("make")
    def make(works: bool) -> DatasetRef:
        if not works:
            raise RuntimeError("no luck")
        return DatasetRef("pool", "abab", 7)

    @project_flow("keep", run_name="keep")
    def keep(works: bool) -> dict[str, object]:
        return {"made": make(works).rows}

    print(keep(True, return_state=True).state_details.flow_run_id)
    keep(False, return_state=True)
"""

READ = """
import json, sys, uuid
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter

with get_client(sync_client=True) as client:
    flow_run = client.read_flow_run(uuid.UUID(sys.argv[1]))
    (task_run,) = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [flow_run.id]}))
    (block,) = client.read_block_documents(include_secrets=True)
    print(json.dumps([flow_run.state.result(), task_run.state.result().path, block.data]))
"""


def ask_python(program, *words, **environment):
    """What a program prints last; it has no Prefect settings but those given."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, env={**ours, **environment}, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_a_local_root_keeps_its_results_in_the_run_and_one_on_s3_names_a_block_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path))
    here = own_settings(str(tmp_path), results=f"{tmp_path}/first")
    assert here["PREFECT_LOCAL_STORAGE_PATH"] == f"{tmp_path}/first/.results"
    assert "PREFECT_DEFAULT_RESULT_STORAGE_BLOCK" not in here
    there = own_settings(ROOT, results=f"{ROOT}/first")
    assert "PREFECT_LOCAL_STORAGE_PATH" not in there
    assert results_setting(f"{ROOT}/").items() <= there.items()
    assert results_setting("s3://runs/others") != results_setting(ROOT)
    start = "PREFECT_CLIENT_MAX_RETRIES=7 python -m flows.server_away worker start"
    assert worker_command(str(tmp_path)) == f"TAPIR_ROOT={tmp_path} {start}"
    assert worker_command(ROOT).startswith(
        f"TAPIR_ROOT={ROOT} PREFECT_DEFAULT_RESULT_STORAGE_BLOCK=remote-file-system/"
    )


@pytest.mark.slow
def test_results_of_a_root_on_s3_lie_below_it_as_json_and_another_machine_reads_them(s3, standing_prefect, tmp_path):
    api, one, two = standing_prefect.api, tmp_path / "one", tmp_path / "two"
    flow_run = ask_python(RUN, PREFECT_API_URL=api, TAPIR_SCRATCH=str(one))
    storage = Storage(ROOT)
    written = [json.loads(storage.read_bytes(path)) for path in storage.files(PREFECT_RESULTS)]
    kept = [json.loads(each["result"]) if "metadata" in each else each for each in written]
    assert MADE in kept
    assert {"made": 7} in kept
    assert [each["message"] for each in kept if "__exc_type__" in each] == ["no luck", "no luck"]
    assert {each["metadata"]["serializer"]["type"] for each in written if "metadata" in each} == {"json"}
    assert [file for file in one.rglob("*") if "storage" in file.parts] == [], "nothing is kept here"

    # It knows the states from the server, and the way in from its own environment.
    flow_result, path, block = json.loads(ask_python(READ, flow_run, PREFECT_API_URL=api, PREFECT_HOME=str(two)))
    assert (flow_result, path) == ({"made": 7}, "pool")
    assert block["basepath"] == f"{ROOT}/.tapir/prefect-results"
    assert "AKIDEXAMPLE" not in json.dumps(block)
    assert s3.address not in json.dumps(block)
