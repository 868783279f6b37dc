"""A run whose held-out set is drawn from its own pool, beside one with references: from a file to its reports."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tapir_core.config import JudgedHeldout, RunConfig
from tapir_core.config.load import load_config
from tapir_core.run_folder import RunFolder
from tapir_core.sources import standin_pool
from tapir_core.stages import StageAt
from tests.doubles.provider import FakeProvider
from tests.golden import fakes
from tests.golden.adapter import drive
from tests.students import make_checkpoint

pytestmark = pytest.mark.usefixtures("prefect_server")

REFERENCES = "tests/golden/own_heldout.jsonl"


def config_of(folder: Path, provider: FakeProvider, *more: str) -> RunConfig:
    rows = standin_pool(120, 2, 7).select("instruction").to_dicts()
    (folder / "pool.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    models = [
        f"{each}.base_url={provider.base_url}" for each in ("student.engine", "teacher.endpoint", "judge.endpoint")
    ]
    of_run = ["evaluation={}", "run.rounds=1", "rounds.default.examples=60", f"run.root={folder / 'runs'}"]
    pool = f'data={{ pool = {{ type = "file", path = "{folder / "pool.jsonl"}" }} }}'
    backbone = f"student.backbone={make_checkpoint(folder / 'backbone')}"
    return load_config("tests/golden/plain.toml", [pool, *of_run, backbone, *models, *more])


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(fakes.reply) as provider:
        yield provider


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, provider: FakeProvider) -> Iterator[RunFolder]:
    """With both kinds of held-out set, done."""
    judged = (
        f'data.heldout={{ type = "judged", max_share = 0.15, max_failed_share = 0.5, references = "{REFERENCES}" }}'
    )
    with pytest.MonkeyPatch.context() as patched:
        yield drive(config_of(tmp_path_factory.mktemp("judged"), provider, judged), patched)


def test_what_is_held_out_enters_no_training_and_no_expansion(run: RunFolder, provider: FakeProvider) -> None:
    held_out, pool = run.rows(StageAt("judged_heldout")), run.rows(StageAt("pool"))
    apart = {*held_out["instruction_id"], *run.rows(StageAt("heldout_overlap"))["instruction_id"]}
    assert apart < set(pool["instruction_id"])
    assert run.rows(StageAt("teach")).height == pool.height, "no answer is asked for twice"
    for name, number in (("mix", 0), ("mix", 1), ("select", 1), ("answer", 1), ("expand", 1), ("refine", 1)):
        rows = run.rows(StageAt(name, number))
        assert rows.height
        assert not apart & set(rows["instruction_id"])
    trained = json.dumps(
        run.rows(StageAt("mix", 1))["messages"].to_list() + run.rows(StageAt("mix", 0))["messages"].to_list()
    )
    assert not [text for text in held_out["instruction"] if json.dumps(text) in trained]


def test_both_sets_are_scored_of_every_student(run: RunFolder) -> None:
    asked = run.rows(StageAt("judged_heldout")).height + run.rows(StageAt("heldout")).height
    for number in (-1, 0, 1):
        scores = run.rows(StageAt("evaluate", number)).filter(category="all", split="test")
        assert run.rows(StageAt("answer_heldout", number)).height == asked
        assert set(run.rows(StageAt("judge_heldout", number))["instruction_id"]) == set(
            run.rows(StageAt("judged_heldout"))["instruction_id"]
        )
        assert scores.filter(benchmark="heldout")["metric"].to_list() == ["accuracy"]
        metrics = ["quality_retention", "win_rate", "score_ratio", "student_chars", "teacher_chars"]
        assert scores.filter(benchmark="judged_heldout")["metric"].to_list() == metrics


def test_report_card_status_and_comparison_speak_of_quality_retention(run: RunFolder) -> None:
    report = run.storage.read_bytes("report.html").decode()
    for said in (
        "Quality retention (test) from S_0 to S_1",
        "Quality retention by round",
        "Judged against the teacher",
    ):
        assert said in report
    assert "Accuracy by round" in report, "the set with references stands beside it"
    assert "could not be drawn" not in report
    said = {}
    for command in (("status", run.ref.name), ("status",), ("side-by-side", run.ref.name, run.ref.name)):
        done = CliRunner().invoke(app, [*command, "--root", run.ref.root], terminal_width=250)
        assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
        said[command] = done.output
    assert all("quality retention" in each for each in said.values())


def test_a_pool_of_a_file_is_judged_by_default_and_a_generated_one_is_not(
    tmp_path: Path, provider: FakeProvider
) -> None:
    assert config_of(tmp_path, provider).data.heldout == JudgedHeldout()
    assert config_of(tmp_path, provider, "data.heldout=").data.heldout is None
    generated = config_of(tmp_path, provider, 'data={ pool = { type = "standin", rows = 9 } }')
    assert generated.data.heldout is None
