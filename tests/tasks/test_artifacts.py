import json
import re
from functools import partial

from httpx import ConnectError
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact, StateType

from tapir_core.data.dataset import Part
from tapir_core.errors import ConfigError
from tapir_core.paths import BACKBONE, REPORT, judge_report_file
from tapir_core.reporting.page import Section, draw, render_markdown
from tapir_core.run_folder import RunRef
from tapir_core.stages import StageAt
from tasks._task import project_task
from tasks.artifacts import (
    artifact_key,
    make_artifact,
    publish_comparison,
    publish_judge,
    publish_missing,
    publish_round,
    publish_run,
)
from tasks.outcomes import Sample, ShardIncomplete, ShardOutcome
from tests.run_builder import build_run, make_config
from tests.shown_plots import read_plots


def find_artifacts(prefix: str) -> list[Artifact]:
    """Every version of every key."""
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(like_=f"{prefix}%")))


def read_artifacts(prefix: str) -> dict[str, str]:
    return {str(artifact.key): str(artifact.data) for artifact in find_artifacts(prefix)}


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
    assert set(found) == {*(f"shown-1-round-1-{kind}" for kind in kinds), "shown-1-card", "shown-1-plots"}
    assert found["shown-1-card"].startswith("# Shown.1\n")
    ids = {str(artifact.key): artifact.id for artifact in find_artifacts("shown-1")}
    assert f"- whole run: [plots](../../artifacts/artifact/{ids['shown-1-plots']})\n" in found["shown-1-card"]
    first = f"- round 1: [stages](../../artifacts/artifact/{ids['shown-1-round-1-stages']}) · [mfd]("
    assert first in found["shown-1-card"]
    assert "- round 2:" not in found["shown-1-card"], "nothing of it was shown"
    stages = json.loads(found["shown-1-round-1-stages"])
    assert [row["Stage"] for row in stages][:3] == ["answer", "judge", "difficulty"]


def test_each_student_adds_a_version_of_the_plots_under_one_key(tmp_path, prefect_server: None) -> None:
    config = make_config(tmp_path, run={"name": "drawn"})

    @flow(name="publish", validate_parameters=False)
    def publish(ref: RunRef, number: int) -> None:
        publish_round(ref, number)

    for number in (BACKBONE, 0, 1):
        publish(build_run(tmp_path, until=StageAt("evaluate", number), config=config).ref, number)
        publish(RunRef(str(tmp_path), "drawn"), BACKBONE)  # as a resumed run does
    versions = [each for each in find_artifacts("drawn") if each.key == "drawn-plots"]
    said = [read_plots(str(each.data)) for each in sorted(versions, key=lambda each: str(each.created))]
    students = ["backbone", "S_0", "S_1"]
    assert [[name for name in students if name in each["Accuracy by round"]] for each in said] == [
        ["backbone"],
        ["backbone"],
        ["backbone", "S_0"],
        ["backbone", "S_0", "S_1"],
    ]
    assert "accuracy on the test split, %" in said[-1]["Accuracy by task type"]


def test_backbone_and_s_0_have_their_stages_and_scores(tmp_path, prefect_server: None) -> None:
    run = build_run(tmp_path, until=StageAt("evaluate", 0), config=make_config(tmp_path, run={"name": "basic"}))

    @flow(name="publish", validate_parameters=False)
    def publish(ref: RunRef) -> None:
        publish_round(ref, BACKBONE)
        publish_round(ref, 0)
        publish_run(ref)

    publish(run.ref)
    found = read_artifacts("basic")
    of_students = {f"basic-{place}-{kind}" for place in ("backbone", "round-0") for kind in ("stages", "scores")}
    assert set(found) == of_students | {"basic-plots", "basic-card"}
    assert [row["Stage"] for row in json.loads(found["basic-round-0-stages"])] == ["mix", "train", "evaluate"]
    assert re.findall(r"^- (.*?): \[", found["basic-card"], re.M) == ["whole run", "backbone", "S_0"]


def test_a_comparison_has_its_plots_beside_its_card(prefect_server: None) -> None:
    plots = render_markdown(
        [Section("By training tokens", plot=draw("t", 1, lambda _: None), note="Means over run seeds.")]
    )

    @flow(name="publish")
    def publish() -> None:
        publish_comparison("Arms.1", "| Arm |", plots)
        publish_comparison("nothing", "| Arm |", "")

    publish()
    assert read_artifacts("arms-1") == {"arms-1-comparison": "| Arm |", "arms-1-comparison-plots": plots}
    assert [*read_artifacts("nothing")] == ["nothing-comparison"]


def test_an_artifact_that_the_server_does_not_take_ends_no_run(prefect_server: None, caplog) -> None:
    def refuse(*_: object) -> None:
        raise ConnectError("nobody listens")

    @flow(name="publish")
    def publish() -> None:
        make_artifact(refuse, "# Refused", "refused-card", "a card")

    publish()
    assert "artifact refused-card is not in the UI" in caplog.text


def test_an_incomplete_shard_that_is_not_tried_again_shows_its_rows_at_the_red_task(prefect_server: None) -> None:
    ref, at = RunRef("runs", "Lacking"), StageAt("judge", 2)
    left = [3, 2]

    @flow(name="judge", validate_parameters=False)
    def judge() -> None:
        shard.with_options(retries=1, on_failure=[partial(publish_missing, ref)])(return_state=True)

    @project_task("judge")
    def shard() -> None:
        samples = (Sample("some-id", "server", 8, "HTTP 500: out of memory", "Name a prime."),)
        raise ShardIncomplete(at, 7, ShardOutcome(Part("p", 9, "0"), missing={"server": left.pop(0)}, samples=samples))

    judge()
    assert not left
    [shown] = find_artifacts("lacking")
    assert shown.key == "lacking-judge-round-2-shard-0007-missing"
    assert shown.description is not None
    assert shown.description.startswith("judge (round 2), shard 7: 2 server.")
    assert "`tapir retry-judge Lacking --root runs`" in shown.description
    [row] = json.loads(str(shown.data))
    assert list(row.items()) == [
        ("said", "HTTP 500: out of memory"),
        ("instruction", "Name a prime."),
        ("kind", "server"),
        ("attempts", 8),
        ("instruction_id", "some-id"),
    ]
    with get_client(sync_client=True) as client:
        assert client.read_task_run(shown.task_run_id).state_type == StateType.FAILED


def test_a_shard_that_fails_in_another_way_shows_no_rows(prefect_server: None) -> None:
    @flow(name="broken", validate_parameters=False)
    def broken() -> None:
        shard.with_options(on_failure=[partial(publish_missing, RunRef("runs", "Broken"))])(return_state=True)

    @project_task("broken")
    def shard() -> None:
        raise ConfigError("no such thing")

    broken()
    assert find_artifacts("broken") == []
