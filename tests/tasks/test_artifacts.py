import json
import re

from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from tapir_core.paths import REPORT, judge_report_file
from tapir_core.run_folder import RunRef
from tasks.artifacts import artifact_key, publish_judge, publish_round, publish_run
from tests.run_builder import build_run, make_config


def read_artifacts(prefix: str) -> dict[str, str]:
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(like_=f"{prefix}%"))
        found = client.read_artifacts(artifact_filter=wanted)
    return {str(artifact.key): str(artifact.data) for artifact in found}


@given(st.text(), st.text())
def test_a_key_has_lowercase_letters_digits_and_dashes_only(name: str, part: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]*", artifact_key(name, part))


def test_a_name_with_capitals_and_dots_gives_a_readable_key() -> None:
    assert artifact_key("LLaMA2_7b.v1", "round", "2", "task-shares") == "llama2-7b-v1-round-2-task-shares"


def test_outside_a_flow_only_the_reports_are_written(tmp_path) -> None:
    run = build_run(tmp_path)
    publish_round(run.ref, 1)
    assert not run.storage.exists(REPORT)
    assert publish_run(run.ref) == f"{tmp_path}/example/{REPORT}"
    assert run.storage.exists(REPORT)
    assert publish_judge(run.ref, 1) == f"{tmp_path}/example/{judge_report_file(1)}"
    assert run.storage.exists(judge_report_file(1))


def test_a_flow_leaves_the_tables_of_its_rounds_and_the_run_card(tmp_path, prefect_server: None) -> None:
    run = build_run(tmp_path, config=make_config(tmp_path, run={"name": "Shown.1"}))

    @flow(name="publish", validate_parameters=False)
    def publish(ref: RunRef) -> None:
        publish_judge(ref, 1)
        publish_round(ref, 1)
        publish_round(ref, 9)
        publish_run(ref)

    publish(run.ref)
    found = read_artifacts("shown-1")
    kinds = ("stages", "mfd", "task-shares", "scores")
    kinds += ("judge", "judge-winners", "judge-unscored", "judge-task-types")
    assert set(found) == {*(f"shown-1-round-1-{kind}" for kind in kinds), "shown-1-card"}
    assert found["shown-1-card"].startswith("# Shown.1\n")
    stages = json.loads(found["shown-1-round-1-stages"])
    assert [row["Stage"] for row in stages][:3] == ["answer", "judge", "difficulty"]
