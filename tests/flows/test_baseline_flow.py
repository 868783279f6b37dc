"""A run and its baseline through the real flow, tasks and calls: what is paid, and what the run's own report says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.distill import distill
from flows.whole_run import drive
from tapir_core.comparison.baseline import baseline_of, read_baseline
from tapir_core.comparison.matching import steps_of
from tapir_core.config.load import load_config
from tapir_core.paths import TRAINING_SUMMARY
from tapir_core.reporting.page import sentence
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tasks.engines.training import trainer
from tests.doubles.lm_eval import make_fake_harness
from tests.doubles.provider import FakeProvider
from tests.flows.built_comparison import BuiltRuns
from tests.golden import fakes
from tests.students import make_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(fakes.reply) as provider:
        yield provider


def train_counted(job: trainer.TrainingJob, **more: Any) -> trainer.TrainingSummary:
    """As the fake trainer, with the examples, tokens (a character each) and steps of the job."""
    made = fakes.train(job, **more)
    rows = [each for file in job.mixture for each in pl.read_parquet(file)["messages"].to_list()]
    size = sum(len(message["content"]) for each in rows for message in each)
    told = {"examples": len(rows), "total_tokens": round(job.epochs * size), "epochs": job.epochs}
    told |= {"steps": steps_of(len(rows), job.epochs, job.training.batch_size)}
    file = job.output / "checkpoint" / TRAINING_SUMMARY
    file.write_text(json.dumps(json.loads(file.read_text()) | told))
    return made


def test_a_baseline_pays_for_its_scores_alone_and_the_run_tells_what_was_added(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(trainer, "train_student", train_counted)
    models = [
        f"{each}.base_url={provider.base_url}" for each in ("student.engine", "teacher.endpoint", "judge.endpoint")
    ]
    settings = [
        *(f"run.root={tmp_path / 'runs'}", f"student.backbone={make_checkpoint(tmp_path / 'backbone')}", *models),
        *("data.pool.rows=160", "basic_tuning.examples=64", "rounds.default.examples=64", "training.batch_size=8"),
        *("run.rounds=1", "evaluation.baseline=sft"),
        f"evaluation.benchmarks.sums.python={make_fake_harness(tmp_path)}",
    ]
    config = load_config("tests/golden/plain.toml", settings)
    asked: list[tuple[str, int]] = []

    def distil(run: RunFolder, until: str | None) -> None:
        distill(run.ref, until)
        asked.append((run.ref.name, sum(call.body["model"] == "teacher-1" for call in provider.calls)))

    drive(config, distil, count=BuiltRuns().count, say=lambda _: None)
    run = RunFolder(RunRef(config.run.root, config.run.name))
    made = baseline_of(run)
    assert {name for name, _ in asked} == {"golden", "golden-sft"}
    assert len({calls for _, calls in asked}) == 1, "the teacher is asked by the run alone"
    found = summarise(made)
    assert found.next_stage is None
    assert found.usage_of(role="teacher").calls == 0
    assert found.usage_of(role="teacher").stored > 0
    assert made.sealed(StageAt("teach")).digest == run.sealed(StageAt("teach")).digest

    told = sentence("added", read_baseline(run))
    assert told.startswith("The curriculum added ")
    report = run.storage.read_bytes("report.html").decode()
    assert told in report
    assert report.count("golden-sft") > 3, "its benchmarks stand beside those of the run's students"
    like = ArtifactFilter(key=ArtifactFilterKey(any_=["golden-card"]))
    with get_client(sync_client=True) as client:
        cards = sorted(client.read_artifacts(artifact_filter=like), key=lambda card: str(card.created))
    assert "The curriculum added" in str(cards[-1].data)
