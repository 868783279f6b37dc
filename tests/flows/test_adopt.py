"""A fine-tune that is moved: from its training file to a student that is compared with it, on engines that answer."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from flows.cli import app
from tapir_core.config import RunConfig
from tapir_core.config.load import load_config, replace_values
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder
from tapir_core.sources import settle_sizes, standin_pool
from tapir_core.stages import StageAt
from tests.doubles.provider import FakeProvider
from tests.golden import fakes
from tests.golden.adapter import drive
from tests.students import make_checkpoint

pytestmark = pytest.mark.usefixtures("prefect_server")

DESK = "Answer: what the desk says"
"""What the file has in the place of every answer."""


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(fakes.reply) as provider:
        yield provider


def adopted(folder: Path, provider: FakeProvider) -> RunConfig:
    rows = standin_pool(120, 2, 7)["instruction"]
    chats = ([{"role": "user", "content": each}, {"role": "assistant", "content": DESK}] for each in rows)
    (folder / "examples.jsonl").write_text("".join(f"{json.dumps({'messages': each})}\n" for each in chats))
    at = ["--address", provider.base_url, "--model", "teacher-1", "--judge", "judge-1", "--student", "embedded"]
    done = CliRunner().invoke(app, ["adopt", str(folder / "examples.jsonl"), str(folder / "moved.toml"), *at])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    engine = f'student.engine={{ type = "endpoint", base_url = "{provider.base_url}" }}'
    backbone = f"student.backbone={make_checkpoint(folder / 'backbone')}"
    settings = ["data.heldout.max_failed_share=0.5", "rounds.default.examples=200", f"run.root={folder / 'runs'}"]
    return settle_sizes(load_config(folder / "moved.toml", [engine, backbone, *settings]))[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, provider: FakeProvider) -> Iterator[RunFolder]:
    with pytest.MonkeyPatch.context() as patched:
        yield drive(adopted(tmp_path_factory.mktemp("adopted"), provider), patched)


def test_the_file_is_trained_on_and_the_fine_tune_is_compared_with(run: RunFolder) -> None:
    held_out, taught = run.rows(StageAt("judged_heldout")), run.rows(StageAt("teach"))
    own = set(taught.filter(pl.col("answered_by").is_null())["instruction_id"])
    assert taught.height == 120
    assert held_out.filter(split="test").height >= 20
    assert set(held_out["instruction_id"]) <= own
    assert not held_out.filter(pl.col("response") == DESK).height
    trained = [each[-1]["content"] for each in run.rows(StageAt("mix", 1))["messages"]]
    apart = run.rows(StageAt("heldout_overlap"))
    given = taught.filter(pl.col("response") == DESK).join(apart, on="instruction_id", how="anti")
    assert trained.count(DESK) == given.height > 60


def test_nothing_is_labelled_and_nothing_is_written_anew(run: RunFolder, provider: FakeProvider) -> None:
    labels = run.rows(StageAt("label"))
    assert set(labels["task_type"]) == {"Others"}
    counts = run.sealed(StageAt("label")).counts
    assert not counts.get("calls")
    assert not counts.get("stored")
    asked = [call for call in provider.calls if call.body["model"] == "teacher-1"]
    unanswered = run.rows(StageAt("teach")).filter(pl.col("answered_by").is_null()).height
    assert len({call.prompt for call in asked}) == unanswered


def test_retention_is_what_the_verdicts_come_to(run: RunFolder) -> None:
    test = run.rows(StageAt("judged_heldout")).filter(split="test")
    verdicts = run.rows(StageAt("judge_heldout", 1)).filter(status="scored")
    kept = [
        sum(row["student_score"] >= row["teacher_score"] for row in rows) / 2
        for item in test["instruction_id"]
        if len(rows := verdicts.filter(instruction_id=item).to_dicts()) == 2
    ]
    [figure] = run.rows(StageAt("evaluate", 1)).filter(
        benchmark="judged_heldout", split="test", category="all", metric="quality_retention"
    )["value"]
    assert kept
    assert figure == pytest.approx(sum(kept) / len(kept))


def test_without_an_answer_of_the_fine_tune_the_run_stops_with_the_remedy(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = adopted(tmp_path, provider)
    pool = f"data.pool.path={tmp_path / 'examples.jsonl'}"
    with pytest.raises(ConfigError, match=r"answered 0 instructions usably.*data.heldout.answers"):
        drive(replace_values(config, [pool]), monkeypatch)
