"""`tapir up` for a root on S3: what its workers' flow runs return lies in the bucket, and nothing of it here."""

import json
import os

import pytest

from tapir_core.paths import PREFECT_RESULTS, SCRATCH_VARIABLE
from tapir_core.storage import Storage
from tests.doubles.provider import FakeProvider, Text
from tests.harness.standing_root import StandingRoot
from tests.run_with_gaps import MISSING, make_run_with_gaps

pytestmark = pytest.mark.operations


@pytest.fixture
def root(s3, tmp_path, monkeypatch):
    monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path / "scratch"))
    exported = {
        SCRATCH_VARIABLE: str(tmp_path / "scratch"),
        "AWS_ENDPOINT_URL": s3.address,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-seen",
    }
    # No other test may have processes of the same root.
    with StandingRoot(tmp_path, root=f"s3://runs/{os.getpid()}", exported=exported, patience_seconds=180) as root:
        yield root


def test_a_worker_of_a_root_on_s3_keeps_its_results_there(root, tmp_path):
    store = {"store_url": f"sqlite:///{tmp_path / 'store.sqlite'}"}
    with FakeProvider(lambda call: Text("Scores: [[4, 7]]")) as provider:
        run = make_run_with_gaps(root.root, tmp_path / "backbone", provider, calls=store)
        root.up()
        ended = root.start("retry-judge", run=run.ref.name).wait_for()
        root.down()
    assert ended.type == "COMPLETED", ended
    assert f"{MISSING} verdicts missing before, 0 now" in ended.message
    storage = Storage(root.root)
    kept = [json.loads(storage.read_bytes(path)) for path in storage.files(PREFECT_RESULTS)]
    returned = [json.loads(each["result"]) for each in kept if isinstance(each, dict) and "metadata" in each]
    assert "tasks.outcomes.Made" in {each["__class__"] for each in returned}
    assert list((tmp_path / "scratch").rglob("*/storage/*")) == []
    assert list(root.home.iterdir()) == []
