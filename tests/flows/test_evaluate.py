"""Scores of students on their own: made where they do not stand, shown in all three places, nobody asked twice."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactCollectionFilterKey,
    ArtifactFilter,
    ArtifactFilterKey,
)
from typer.testing import CliRunner

from flows.cli import app
from flows.distill import evaluate_students
from flows.forms import evaluate_from_form
from tapir_core.config import ACCURACY
from tapir_core.paths import REPORT
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.standin.families import recognise
from tasks.artifacts import publish_run
from tasks.engines.backbone import checkpoint_digest
from tasks.runtime import close_all
from tests.doubles.provider import FakeProvider, Text
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.shown_plots import read_plots

pytestmark = pytest.mark.usefixtures("prefect_server")

HELDOUT = 60
SCORED = re.compile(r"<td[^>]*>S_2</td><td[^>]*>test</td><td>[\d.]+</td>")
"""The row of the last student in a report's table of accuracies."""


@pytest.fixture
def student() -> Iterator[FakeProvider]:
    """Knows everything."""
    with FakeProvider(lambda call: Text(recognise(call.prompt).plain)) as provider:
        yield provider


@pytest.fixture
def run(tmp_path: Path, backbone: Path, student: FakeProvider) -> Iterator[RunFolder]:
    """A finished run; its student answers at an endpoint."""
    engine = {"type": "endpoint", "base_url": student.base_url, "model": "{checkpoint}", "api_key_env": ""}
    config = make_config(
        tmp_path,
        run={"name": "scored"},
        data={"pool": {"type": "standin", "rows": 240}, "heldout": {"type": "standin", "dev": 20, "test": 40}},
        student={"backbone": str(backbone), "engine": engine},
    )
    yield build_run(tmp_path, config=config, backbone=checkpoint_digest(backbone))
    close_all()


def forget_scores(run: RunFolder, number: int) -> None:
    for name in ("answer_heldout", "evaluate"):
        run.storage.remove(StageAt(name, number).folder)


def accuracy(run: RunFolder, number: int) -> list[float]:
    scores = run.rows(StageAt("evaluate", number)).filter(category="all", metric=ACCURACY)
    return list(map(float, scores["value"]))


def test_what_lacks_scores_is_scored_and_shown_and_nothing_else(run: RunFolder, student: FakeProvider) -> None:
    before = accuracy(run, 0)
    forget_scores(run, 1)
    evaluate_students(run.ref, [0, 1])
    assert accuracy(run, 1) == [1.0, 1.0]
    assert accuracy(run, 0) == before
    assert len(student.calls) == HELDOUT
    with get_client(sync_client=True) as client:
        like = ArtifactFilter(key=ArtifactFilterKey(like_="scored-%"))
        shown = {str(each.key): each.data for each in client.read_artifacts(artifact_filter=like)}
    rounds = {"scored-round-0-scores", "scored-round-1-scores"}
    assert set(shown) == {"scored-scores", *rounds, "scored-spend", "scored-card", "scored-plots"}
    assert "S_2" in read_plots(str(shown["scored-plots"]))["Accuracy by round"]
    scores = json.loads(str(shown["scored-scores"]))
    assert {row["Student"] for row in scores} == {"backbone", "S_0", "S_1", "S_2"}
    known = {"Student": "S_1", "Split": "dev", "Accuracy, %": "100.0", "95 % interval": "83.9 to 100.0"}
    assert scores[4] == {**known, "n": "20", "Failed": "0"}

    evaluate_students(run.ref, [0, 1])
    assert len(student.calls) == HELDOUT, "the scores stand"


def test_the_form_says_the_scores_and_refuses_in_the_command_lines_words(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPIR_ROOT", run.ref.root)
    forget_scores(run, 2)
    state = evaluate_from_form("scored", "2", return_state=True)
    assert state.is_completed(), state.message
    assert state.message == (
        "Held-out accuracy with 95 % interval: S_2 dev 100.0 % (83.9 to 100.0), n = 20, 0 failed; "
        "S_2 test 100.0 % (91.2 to 100.0), n = 40, 0 failed."
    )
    refused = evaluate_from_form("scored", "9", return_state=True)
    assert refused.is_failed()
    assert "--round 9: run 'scored' has no such student; it has backbone, 0, 1, 2" in refused.message


def test_the_command_of_a_run_whose_scores_stand_asks_nobody_and_starts_no_server(
    run: RunFolder, student: FakeProvider
) -> None:
    done = CliRunner().invoke(app, ["evaluate", f"{run.ref.root}/scored"])
    assert done.exit_code == 0, done.output
    assert "connecting" not in done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines() if " to " in line][:2] == [
        ["backbone", "dev"],
        ["backbone", "test"],
    ]
    assert student.calls == []
    one = CliRunner().invoke(app, ["evaluate", f"{run.ref.root}/scored", "--round", "best"])
    assert "Held-out accuracy of S_" in one.stdout


def test_what_is_scored_later_stands_in_report_and_run_card_of_before(run: RunFolder) -> None:
    """A report that does not know of it would be believed."""
    forget_scores(run, 2)
    publish_run(run.ref)
    stale = run.storage.read_bytes(REPORT).decode()
    assert not SCORED.search(stale)
    evaluate_students(run.ref, [2])
    assert SCORED.search(run.storage.read_bytes(REPORT).decode())
    with get_client(sync_client=True) as client:
        of_run = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=["scored-card"]))
        [card] = client.read_latest_artifacts(artifact_filter=of_run)
    assert "| S_2 |" in str(card.data)

    run.storage.write_bytes(REPORT, stale.encode())
    done = CliRunner().invoke(app, ["evaluate", f"{run.ref.root}/scored"])
    assert done.exit_code == 0, done.output
    assert SCORED.search(run.storage.read_bytes(REPORT).decode()), "no score was made, but the report is"
    assert f"report: {run.ref.root}/scored/{REPORT}" in done.stderr.replace("\n", "")
