"""A run whose verifier judges, filters and marks, through flows and tasks; teacher and student are fakes."""

import json
import random
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.distill import distill
from flows.driver import hold_run
from tapir_core.config import ACCURACY
from tapir_core.config.load import load_config
from tapir_core.errors import ConfigError, RunChanged
from tapir_core.reporting.judge_report import summarise_judge
from tapir_core.reporting.report import choose_examples, write_report
from tapir_core.run_folder import RunFolder, stages_to_redo
from tapir_core.stages import (
    ANSWER,
    ANSWER_HELDOUT,
    EVALUATE,
    EXPAND,
    HELDOUT,
    JUDGE,
    JUDGE_HELDOUT,
    JUDGED_HELDOUT,
    MIX,
    POOL,
    REFINE,
    TEACH,
    VERIFY,
    VERIFY_HELDOUT,
)
from tapir_core.standin.families import recognise
from tapir_core.summary import RunReader, summarise
from tapir_core.summary.types import Example
from tapir_core.text import digest
from tapir_core.verifiers import is_correct
from tasks.input_files import gather_files
from tasks.judge import verify
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Text
from tests.golden import fakes
from tests.golden.adapter import drive
from tests.golden.test_rows import plain_settings

pytestmark = pytest.mark.usefixtures("prefect_server")
ROOT = Path(__file__).parents[2]
MINE = """
from tapir_core.verifiers import is_correct

def score(instruction, answer, reference):
    if reference is None:
        return None if "Answer:" in answer else 0.0
    return 1.0 if is_correct(answer, reference) else 0.5
"""


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    monkeypatch.chdir(ROOT)
    with FakeProvider(reply) as provider:
        yield provider


def reply(call: RecordedCall) -> FakeReply:
    """The golden runs' fakes; of the pool, and of what is refined, every third answer is wrong."""
    is_answer = call.body["model"] == "teacher-1" and ("rewrite" in call.prompt.lower() or recognise(call.prompt))
    wrong = is_answer and int(digest(call.prompt)[:4], 16) % 3 == 0
    return Text("I worked it out.\n\nAnswer: a tapir") if wrong else fakes.reply(call)


def settings(folder: Path, provider: FakeProvider, **verifier: object) -> list[str]:
    (folder / "mine.py").write_text(MINE)
    table = {"function": "mine:score", "folder": str(folder), **verifier}
    fields = ", ".join(f"{name} = {json.dumps(value)}" for name, value in table.items())
    plain = [each for each in plain_settings(folder, provider) if not each.startswith("evaluation")]
    return [*plain, "evaluation={}", f"judge.verifier={{ {fields} }}", "run.rounds=1"]


def judged_by(provider: FakeProvider) -> int:
    return sum(call.body["model"] == "judge-1" for call in provider.calls)


def test_a_verifier_judges_filters_and_marks(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("tests/golden/plain.toml", settings(tmp_path, provider, only=True))
    run = drive(config, monkeypatch)
    assert judged_by(provider) == 0
    check_filter(run)
    check_verdicts(run)
    check_marks(run)
    check_reports(run)

    # Another module, another run: what its scores shaped is made anew, the paid answers stay.
    (tmp_path / "mine.py").write_text(MINE + "\n# edited")
    redone = {each.at.name for each in stages_to_redo(run, config, gather_files(config))}
    assert {"verify", "judge", "verify_heldout", "mix"} <= redone
    assert not redone & {"pool", "label", "teach", "heldout"}
    with pytest.raises(RunChanged, match=r"judge\.verifier 'mine:score' is not the file"):
        judge_again(run)


def check_filter(run: RunFolder) -> None:
    """What the teacher got wrong is in no training set, and is counted by its reason."""
    references = dict(run.rows(POOL.at()).select("instruction_id", "reference").iter_rows())
    said = run.rows(TEACH.at()).drop_nulls("response").select("instruction_id", "response", "finish_reason")
    wrong = {identity for identity, text, _ in said.iter_rows() if not is_correct(text, references[identity])}
    marks = run.rows(VERIFY.at())
    assert set(marks.filter(correct=False)["instruction_id"]) == wrong
    assert marks.filter(correct=False)["score"].unique().to_list() == [0.5]
    whole = {identity for identity, _, ending in said.iter_rows() if ending == "stop"}
    assert wrong & whole, "the fake teacher errs in whole answers, too"
    assert summarise(run).unusable["failed_verifier"] == len(wrong & whole)  # type: ignore[index]  # there is a pool
    trained = {identity for number in (0, 1) for identity in run.rows(MIX.at(number))["instruction_id"]}
    assert not trained & wrong
    assert not set(run.rows(ANSWER.at(1))["instruction_id"]) & wrong
    # New instructions have no reference: the verifier says so of most.
    assert all("Answer:" in text for text in run.rows(EXPAND.at(1))["response"])
    refined = run.rows(REFINE.at(1)).drop_nulls("refined")
    for identity, text, accepted in refined.select("instruction_id", "refined", "accepted").iter_rows():
        assert not accepted or identity not in references or is_correct(text, references[identity])


def check_verdicts(run: RunFolder) -> None:
    """Scores of 0.5 and 1 are 5.5 and 10 points, in each order."""
    references = dict(run.rows(POOL.at()).select("instruction_id", "reference").iter_rows())
    answers = dict(run.rows(ANSWER.at(1)).select("instruction_id", "response").iter_rows())
    verdicts = run.rows(JUDGE.at(1))
    assert verdicts["judge"].unique().to_list() == ["mine:score"]
    for row in verdicts.filter(status="scored").iter_rows(named=True):
        right = is_correct(answers[row["instruction_id"]], references[row["instruction_id"]])
        assert (row["student_score"], row["teacher_score"]) == (10.0 if right else 5.5, 10.0)
    assert verdicts.filter(status="scored").height == 2 * len([each for each in answers.values() if each is not None])


def check_marks(run: RunFolder) -> None:
    """The accuracy of the held-out set is the verifier's, and says so."""
    answers = run.rows(ANSWER_HELDOUT.at(1)).drop_nulls("response")
    questions = run.rows(HELDOUT.at()).join(answers, on="instruction_id")
    right = {row["instruction_id"]: is_correct(row["response"], row["reference"]) for row in questions.to_dicts()}
    assert dict(run.rows(VERIFY_HELDOUT.at(1)).select("instruction_id", "correct").iter_rows()) == right
    test = questions.filter(split="test")["instruction_id"]
    [whole] = run.rows(EVALUATE.at(1)).filter(split="test", category="all", metric=ACCURACY).to_dicts()
    assert whole["value"] == pytest.approx(sum(right[each] for each in test) / test.len())
    assert whole["judge"] == "verifier mine:score"


def check_reports(run: RunFolder) -> None:
    found = summarise_judge(run, 1)
    assert (found.judge.all_names, found.verdicts) == (("mine:score",), run.rows(JUDGE.at(1)).height)
    page = Path(write_report(run)).read_text()
    assert "judged by mine:score, over" in " ".join(page.split())
    assert "failed verifier" in page
    assert "Judged by verifier mine:score; student" in page
    assert "Right means that the verifier mine:score says so" in " ".join(page.split())
    assert "exact match" not in page
    assert {answer.outcome for each in examples_of(run) for answer in each.answers} <= {"✓ right", "✗ wrong"}


def examples_of(run: RunFolder) -> tuple[Example, ...]:
    found = choose_examples(RunReader(run), [0, 1], 4, random.Random(0))
    assert found is not None
    return found.shown


def judge_again(run: RunFolder) -> None:
    run.storage.remove(f"{VERIFY.at().folder}/manifest.json")
    verify.fn(run.ref, VERIFY.at())


SOME = """
from tapir_core.verifiers import is_correct

def score(instruction, answer, reference):
    if reference is None:
        return float("Answer:" in answer)
    return float(is_correct(answer, reference)) if len(instruction) % 2 else None
"""


def test_beside_a_judged_held_out_set_it_judges_what_it_can_and_marks_rows_without_a_reference(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in Path("tests/golden/own_heldout.jsonl").read_text().splitlines()]
    bare = [{**row, "reference": None} for row in rows]
    (tmp_path / "bare.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in bare))
    heldout = (
        f'{{ type = "judged", max_share = 0.3, max_failed_share = 0.6, references = "{tmp_path / "bare.jsonl"}" }}'
    )
    own = [*settings(tmp_path, provider, uses=["judge", "heldout"]), f"data.heldout={heldout}", "data.pool.rows=60"]
    (tmp_path / "mine.py").write_text(SOME)
    config = load_config("tests/golden/plain.toml", own)
    run = drive(config, monkeypatch)
    check_who_judged(run, provider)
    check_bare_marks(run)
    check_names(run)

    # Without the verifier nothing tells which of these answers are right.
    without = load_config("tests/golden/plain.toml", [*own, "judge.verifier="])
    with (
        hold_run(without, say=lambda _: None, amend=True) as run,
        pytest.raises(ConfigError, match=r"rows of the held-out set have no `reference`.*--amend"),
    ):
        distill(run.ref)


def check_who_judged(run: RunFolder, provider: FakeProvider) -> None:
    """The verifier where it says something of both answers, else the judge, which is asked about nothing more."""
    asked = [call.prompt for call in provider.calls if call.body["model"] == "judge-1"]
    held_out = dict(run.rows(JUDGED_HELDOUT.at()).select("instruction_id", "instruction").iter_rows())
    assert {len(each) % 2 for each in held_out.values()} == {0, 1}
    for number in (-1, 0, 1):
        verdicts = run.rows(JUDGE_HELDOUT.at(number)).filter(status="scored")
        for identity, judge in verdicts.select("instruction_id", "judge").iter_rows():
            assert judge == ("mine:score" if len(held_out[identity]) % 2 else "judge-1")
        assert {*verdicts["judge"]} == {"mine:score", "judge-1"}
    assert not [text for text in held_out.values() if len(text) % 2 and any(text in prompt for prompt in asked)]
    assert any(text in prompt for text in held_out.values() for prompt in asked)


def check_bare_marks(run: RunFolder) -> None:
    """The function is given no reference, and what it says is the accuracy."""
    questions = run.rows(HELDOUT.at())
    assert questions["reference"].null_count() == questions.height
    rows = questions.filter(split="test").join(
        run.rows(ANSWER_HELDOUT.at(1)).drop_nulls("response"), on="instruction_id"
    )
    [whole] = run.rows(EVALUATE.at(1)).filter(benchmark="heldout", split="test", category="all").to_dicts()
    assert whole["n"] == rows.height
    assert whole["judge"] == "verifier mine:score"
    if whole["value"] is not None:
        assert whole["value"] == pytest.approx(rows["response"].str.contains("Answer:").mean())


def check_names(run: RunFolder) -> None:
    """The verifier stands beside the judge wherever the scores do."""
    judged = run.rows(EVALUATE.at(1)).filter(benchmark="judged_heldout")
    assert judged["judge"].unique().to_list() == ["mine:score and judge-1"]
    page = " ".join(unescape(re.sub("<[^>]*>", " ", Path(write_report(run)).read_text())).split())
    assert "Judged by mine:score and judge-1." in page
    assert "Judged by verifier mine:score; student" in page
    assert "exact match" not in page
    assert [each.stated for each in summarise(run).students] == [None] * 3, "its form need not matter to a verifier"
    done = CliRunner().invoke(app, ["status", run.ref.name, "--root", run.ref.root], terminal_width=250)
    assert "on the held-out test split: quality retention" in done.output
    assert "; judged by mine:score and judge-1\n" in done.output
