"""The page docs/tutorial.md on small models: its configuration leads to judged scores and to a baseline.

The page as it stands, on real engines, is run by tests/operations/test_tutorial.py.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.distill import distill
from flows.whole_run import drive
from tapir_core.comparison.baseline import baseline_of
from tapir_core.config.load import load_config
from tapir_core.paths import BACKBONE
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.standin.families import recognise
from tapir_core.text import digest
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status
from tests.doubles.shapes import openai_reasoning
from tests.flows.built_comparison import BuiltRuns
from tests.golden import fakes
from tests.harness.processes import REPOSITORY
from tests.students import make_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

PAGE = (REPOSITORY / "docs/tutorial.md").read_text()
[CONFIG] = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S)
MOST_LINES = 25


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A reasoning model that fails one request in twenty; students answer beside it."""
    seen: Counter[str] = Counter()

    def reply(call: RecordedCall) -> FakeReply:
        if "/" in str(call.body["model"]):
            return fakes.reply(call)
        asked = digest(call.body)
        seen[asked] += 1
        if int(digest([asked, seen[asked]])[:6], 16) % 20 == 0:
            return Status(500, {"error": {"message": "try again", "type": "server_error"}})
        return openai_reasoning(call)

    with FakeProvider(reply, probed=True) as provider:
        yield provider


def tapir(*words: str) -> str:
    done = CliRunner().invoke(app, [*words])
    assert done.exit_code == 0, done.output
    return done.output


def run_page(root: Path, provider: FakeProvider, *settings: str) -> RunFolder:
    """The page's configuration with fewer instructions, and with students that need no engine."""
    (root / "my_run.toml").write_text(CONFIG)
    tapir("standin", "write", str(root / "my_instructions.json"), "--rows", "240")
    config = load_config(root / "my_run.toml", overrides(root, provider, *settings))
    with BuiltRuns().counting():
        drive(config, lambda run, until: distill(run.ref, until), say=lambda _: None)
    return RunFolder(RunRef(config.run.root, config.run.name))


def overrides(root: Path, provider: FakeProvider, *settings: str) -> list[str]:
    return [
        *(f"run.root={root / 'runs'}", f"data.pool.path={root / 'my_instructions.json'}"),
        *(f"student.backbone={make_checkpoint(root / 'backbone')}", "student.engine.type=endpoint"),
        *(f"{each}.base_url={provider.base_url}" for each in ("student.engine", "teacher.endpoint")),
        *(f"judge.endpoint.base_url={provider.base_url}", "basic_tuning.examples=64", "rounds.default.examples=64"),
        *("calls.max_backoff_seconds=0.1", *settings),
    ]


def taught(provider: FakeProvider) -> int:
    """Requests for a plain answer: those whose prompt is an instruction."""
    return sum(
        call.body["model"] == "standin-teacher" and recognise(call.prompt) is not None for call in provider.calls
    )


def test_the_configuration_of_the_page_leads_to_judged_scores_and_a_baseline(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(CONFIG.splitlines()) <= MOST_LINES
    fakes.replace_trainer(monkeypatch, fakes.train_counted)
    run = run_page(tmp_path, provider)
    assert taught(provider) >= 240
    assert not any("temperature" in call.body for call in provider.calls[-50:] if "/" not in call.body["model"])

    for number in (BACKBONE, 0, 1, 2):
        scores = run.rows(StageAt("evaluate", number)).filter(split="test", category="all")
        assert "quality_retention" in {*scores["metric"]}
    report = run.storage.read_bytes("report.html").decode()
    for words in ("Quality retention", "The curriculum added", "What it costs to serve", "mine-sft"):
        assert words in report

    held_out = {*run.rows(StageAt("judged_heldout"))["instruction_id"]}
    assert len(held_out) == 48
    for trained in (run, baseline_of(run)):
        mixed = pl.concat([trained.rows(StageAt("mix", each))["instruction_id"] for each in trained.trained_rounds])
        assert not held_out & {*mixed}


def test_with_the_answers_of_the_file_nobody_is_asked_for_a_plain_answer(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.replace_trainer(monkeypatch, fakes.train_counted)
    settings = re.findall(r"--set (data\.pool\.\S+)", PAGE)
    assert len(settings) == 2
    no_expansion = ("run.rounds=1", "rounds.1.alpha=0", "evaluation.baseline=none")
    run = run_page(tmp_path, provider, *settings, *no_expansion)
    assert taught(provider) == 0
    scores = run.rows(StageAt("evaluate", 1)).filter(metric="quality_retention", split="test", category="all")
    assert scores.height == 1


def test_answers_that_were_imported_into_the_store_are_asked_of_nobody(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.replace_trainer(monkeypatch, fakes.train_counted)
    one_round = ("run.rounds=1", "rounds.1.alpha=0", "evaluation.baseline=none")
    (tmp_path / "my_run.toml").write_text(CONFIG)
    tapir("standin", "write", str(tmp_path / "answered.json"), "--rows", "240")
    # What the provider refuses is known here: it belongs to the request under which an answer lies.
    refused = (f"teacher.answering.{each}=provider" for each in ("temperature", "top_p"))
    words = [word for each in overrides(tmp_path, provider, *one_round, *refused) for word in ("--set", each)]
    said = tapir(
        "store", "import", str(tmp_path / "answered.json"), "--teacher-of", str(tmp_path / "my_run.toml"), *words
    )
    assert "240 rows read: 240 added" in said
    assert "standin-teacher" in said
    assert "temperature of the provider" in said
    run = run_page(tmp_path, provider, *one_round)
    assert taught(provider) == 0
    given = {each["instruction"]: each["output"] for each in json.loads((tmp_path / "answered.json").read_text())}
    rows = run.rows(StageAt("teach")).join(run.rows(StageAt("pool")), on="instruction_id")
    assert {row["instruction"]: row["response"] for row in rows.to_dicts()} == given
