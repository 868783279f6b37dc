"""A run whose root is on S3: killed on one machine while it trains, it goes on on another."""

import pytest

from tapir_core.data.dataset import read_manifest
from tapir_core.paths import RUN_RECORD, SCRATCH_VARIABLE, attempt_folder, log_file
from tapir_core.run_files import fetch_stage
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.storage import file_sha256
from tests.doubles.standin import StandinServer
from tests.end_to_end.project import DEADLINE_SECONDS, Project
from tests.harness.processes import kill, left_over
from tests.harness.stand_ins import RequestLog, endpoints
from tests.waiting import wait_until

pytestmark = pytest.mark.operations

TRAINED = StageAt("train", 0)


def trains(run):
    key = run.key(TRAINED) if run.storage.exists(RUN_RECORD) else None
    return key is not None and (run.workplace.local(attempt_folder(0, key)) / "progress.jsonl").exists()


def test_a_run_on_s3_goes_on_on_another_machine(s3, tmp_path, tiny_students, standing_prefect, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", standing_prefect.api)
    log, ref = tmp_path / "standin.jsonl", RunRef("s3://runs/all", "far")
    with StandinServer(log_path=log) as server:
        settings = {"run.root": ref.root, "calls.store_url": f"sqlite:///{tmp_path / 'store.sqlite'}"}
        settings |= endpoints(server.base_url)
        # The teacher in the student's place: this is not about vLLM.
        engine = f'{{ type = "endpoint", base_url = "{server.base_url}", model = "standin-teacher", api_key_env = "" }}'
        settings["student.engine"] = engine
        project = Project(tmp_path, tiny_students[0], settings, standing_prefect.api)

        monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path / "one"))
        driver = project.start(ref.name)
        wait_until(lambda: trains(RunFolder(ref)), seconds=DEADLINE_SECONDS, alive=driver)
        assert left_over(kill(driver, whole_tree=True)) == []
        assert RunFolder(ref).holds(TRAINED) is None

        monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path / "two"))
        project.run(ref.name, "--until", "train@0")

    monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path / "three"))
    run = RunFolder(ref)
    assert run.holds(TRAINED) is not None
    folder, manifest = fetch_stage(run, TRAINED), read_manifest(run.storage, TRAINED.folder)
    assert {file.name: file_sha256(file) for file in folder.iterdir()} == {
        part.name: part.sha256 for part in manifest.parts
    }
    assert run.storage.exists(log_file("train-00"))
    assert RequestLog(log).answered_again() == 0
