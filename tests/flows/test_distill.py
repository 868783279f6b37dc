"""What the flow of a whole run shows in Prefect, seen on a run with nothing left to do: names, tags and artifacts."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterTags,
)

from flows.distill import distill
from flows.prefect_server.server import TAG
from tapir_core.run_folder import RunFolder
from tasks.runtime import close_all
from tests.run_builder import build_run
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")

RUN_TAGS = {TAG, "run-seen"}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    yield build_run(tmp_path, config=make_config(tmp_path, run={"name": "seen"}))
    close_all()


def test_flow_runs_are_named_and_tagged_and_each_drive_adds_a_version_of_the_same_artifacts(run: RunFolder) -> None:
    for _ in range(2):
        with tags(*RUN_TAGS):
            distill(run.ref)
    of_run = FlowRunFilter(tags=FlowRunFilterTags(all_=sorted(RUN_TAGS)))
    with get_client(sync_client=True) as client:
        flow_runs = client.read_flow_runs(flow_run_filter=of_run)
        like = ArtifactFilter(key=ArtifactFilterKey(like_="seen-%"))
        versions = Counter(str(each.key) for each in client.read_artifacts(artifact_filter=like))
    assert sorted((each.name, tuple(sorted(each.tags))) for each in flow_runs) == sorted(
        2
        * [
            ("seen", tuple(sorted(RUN_TAGS))),
            ("round-1", tuple(sorted({*RUN_TAGS, "round-1"}))),
            ("round-2", tuple(sorted({*RUN_TAGS, "round-2"}))),
        ]
    )
    of_rounds = {f"seen-round-{number}-{name}" for number in (1, 2) for name in ("stages", "mfd", "scores", "judge")}
    of_students = {f"seen-{place}-{name}" for place in ("backbone", "round-0") for name in ("stages", "scores")}
    assert of_rounds | of_students | {"seen-card", "seen-spend"} <= set(versions)
    assert versions.pop("seen-plots") == 4, "with the last round, and at the end"
    of_judge = [name for name in versions if re.fullmatch(r"seen-round-\d-judge.*", name)]
    assert {versions.pop(name) for name in of_judge} == {1}, "the report of these verdicts is there the second time"
    assert set(versions.values()) == {2}
