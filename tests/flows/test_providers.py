"""A run asks teacher and judge in the shape of each provider: what one refuses is left out, said and kept."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from flows.distill import distill
from flows.driver import hold_run
from tapir_core.config import RunConfig
from tapir_core.errors import TooMuchMissing
from tapir_core.reporting import sentences
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tasks.runtime import close_all
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall
from tests.doubles.shapes import SHAPES
from tests.run_builder import build_run
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(params=SHAPES)
def provider(request: pytest.FixtureRequest) -> Iterator[FakeProvider]:
    with FakeProvider(SHAPES[request.param], probed=True) as provider:
        yield provider
    close_all()


def make_small(root: Path, provider: FakeProvider, backbone: Path) -> RunConfig:
    endpoint = {"type": "openai", "base_url": provider.base_url, "api_key_env": ""}
    return make_config(
        root,
        run={"name": "shaped", "rounds": 1},
        data={"pool": {"type": "standin", "rows": 60}, "heldout": None},
        student={"backbone": str(backbone)},
        teacher={"endpoint": {**endpoint, "model": "a-teacher"}, "label_replies": "json"},
        judge={"endpoint": {**endpoint, "model": "a-judge"}, "replies": "json"},
        curriculum={"alpha_start": 0.3, "refine": True, "stop": {"patience": 0}},
        basic_tuning={"examples": 16},
    )


def test_a_run_is_asked_to_its_verdicts_and_a_second_start_asks_nobody(
    tmp_path: Path, provider: FakeProvider, backbone: Path
) -> None:
    config, said = make_small(tmp_path, provider, backbone), list[str]()
    with hold_run(config, say=said.append) as run:
        distill(run.ref, until="teach")
    settled = json.loads((tmp_path / "shaped" / "run.json").read_text())["settled"]
    changes = {name: value for each in settled.values() for name, value in each["changes"].items()}
    for name, value in changes.items():
        assert any(
            line.startswith("In this run ") and name in line and f" = {json.dumps(value)}, " in line for line in said
        )
    shown = summarise(run).settled
    assert all(any(name in fields for fields, _, _ in shown) for name in changes)
    taught = run.rows(StageAt("teach"))
    assert taught.height == 60
    assert taught["response"].str.len_chars().min() > 0
    assert not taught.filter(pl.col("response").str.contains("Let me see")).height, "thoughts are no answers"

    asked = len(provider.calls)
    with hold_run(config, say=said.append) as again:
        assert again.config == run.config
        distill(again.ref, until="teach")
    assert len(provider.calls) == asked

    close_all()
    judged = build_run(tmp_path / "judged", config=at(run.config, tmp_path / "judged"), until=StageAt("answer", 1))
    distill(judged.ref, until="judge")
    verdicts = judged.rows(StageAt("judge", 1))
    assert verdicts.height > 0
    assert verdicts["teacher_score"].null_count() < verdicts.height / 2
    by_schema = run.config.judge.replies == "json"
    assert verdicts["raw"].str.starts_with("{").any() == by_schema
    assert by_schema == ("judge.replies" not in changes)


def test_what_a_provider_refuses_only_later_stops_the_run_with_its_words(tmp_path: Path, backbone: Path) -> None:
    def newer(call: RecordedCall) -> FakeReply:
        shape = "vllm" if len(provider.calls) < 30 else "anthropic_newest"
        return SHAPES[shape](call)

    with FakeProvider(newer, probed=True) as provider:
        config = make_small(tmp_path, provider, backbone)
        with (
            pytest.raises(TooMuchMissing, match="`temperature` is deprecated for this model") as stopped,
            hold_run(config, say=print) as run,
        ):
            distill(run.ref, until="teach")
        close_all()
    assert 'Set temperature = "provider" in the sampling' in str(stopped.value)
    assert run.error == str(stopped.value)
    assert "deprecated for this model" in sentences.state(summarise(run))
    with hold_run(run.config, say=print, probe=False) as again:
        assert again.error == "", "it is at it again"


def at(config: RunConfig, root: Path) -> RunConfig:
    return config.model_copy(update={"run": config.run.model_copy(update={"root": str(root)})})
