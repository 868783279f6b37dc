"""A run and its baseline through the real flow, tasks and calls: what is paid, and what the run's own report says."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.distill import distill
from flows.whole_run import drive
from tapir_core.comparison.baseline import baseline_of, read_baseline
from tapir_core.config.load import load_config
from tapir_core.reporting import sentences
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tasks.runtime import close_all
from tests.doubles.lm_eval import make_fake_harness
from tests.doubles.provider import FakeProvider
from tests.flows.built_comparison import BuiltRuns
from tests.flows.test_own_data import answer, desk_config
from tests.golden import fakes
from tests.students import make_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(fakes.reply) as provider:
        yield provider


def test_a_baseline_pays_for_its_scores_alone_and_the_run_tells_what_was_added(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    fakes.replace_trainer(monkeypatch, fakes.train_counted)
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

    with BuiltRuns().counting():
        drive(config, distil, say=lambda _: None)
    run = RunFolder(RunRef(config.run.root, config.run.name))
    made = baseline_of(run)
    assert {name for name, _ in asked} == {"golden", "golden-sft"}
    assert len({calls for _, calls in asked}) == 1, "the teacher is asked by the run alone"
    found = summarise(made)
    assert found.next_stage is None
    assert found.usage_of(role="teacher").calls == 0
    assert found.usage_of(role="teacher").stored > 0
    assert made.sealed(StageAt("teach")).digest == run.sealed(StageAt("teach")).digest

    told = sentences.added(read_baseline(run))
    assert told.startswith("The curriculum added ")
    report = run.storage.read_bytes("report.html").decode()
    assert told in report
    assert report.count("golden-sft") > 3, "its benchmarks stand beside those of the run's students"
    like = ArtifactFilter(key=ArtifactFilterKey(any_=["golden-card"]))
    with get_client(sync_client=True) as client:
        cards = sorted(client.read_artifacts(artifact_filter=like), key=lambda card: str(card.created))
    assert "The curriculum added" in str(cards[-1].data)


@pytest.mark.operations
def test_a_baseline_of_conversations_is_trained_on_whole_ones_and_judged_on_what_neither_run_trained_on(
    tmp_path: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.replace_trainer(monkeypatch, fakes.train_counted)
    with FakeProvider(answer) as provider, BuiltRuns().counting():
        said = {"evaluation": {"baseline": "sft"}, "training": {"batch_size": 8}}
        config = desk_config(tmp_path, provider, backbone, **said)
        drive(config, lambda run, until: distill(run.ref, until), say=lambda _: None)
        close_all()
    run = RunFolder(RunRef(config.run.root, config.run.name))
    made = baseline_of(run)
    held_out = run.rows(StageAt("judged_heldout"))
    assert made.rows(StageAt("judged_heldout")).equals(held_out)
    for number in (0, 1):
        rows = made.rows(StageAt("mix", number))
        assert rows.height
        assert not {*rows["instruction_id"]} & {*held_out["instruction_id"]}
        for messages in rows["messages"].to_list():
            assert [each["role"] for each in messages] == ["user", "assistant", "user", "assistant"]
            assert messages[-1]["content"].startswith("The desk answers")
    judged = made.rows(StageAt("judge_heldout", 1)).filter(status="scored")
    assert {*judged["instruction_id"]} == {*held_out["instruction_id"]}

    found = read_baseline(run)
    assert found is not None
    assert found.difference is not None
    told = sentences.added(found)
    assert re.match(r"The curriculum added .* points.* to ", told), told
    assert told in unescape(run.storage.read_bytes("report.html").decode())
