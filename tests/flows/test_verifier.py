"""A run whose verifier judges, filters and marks, through flows and tasks; teacher and student are fakes."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir_core.config.load import load_config
from tapir_core.errors import RunChanged
from tapir_core.reporting.judge_report import summarise_judge
from tapir_core.reporting.report import write_report
from tapir_core.run_folder import RunFolder, stages_to_redo
from tapir_core.stages import (
    ANSWER,
    ANSWER_HELDOUT,
    EVALUATE,
    EXPAND,
    HELDOUT,
    JUDGE,
    MIX,
    POOL,
    REFINE,
    TEACH,
    VERIFY,
    VERIFY_HELDOUT,
)
from tapir_core.standin.families import recognise
from tapir_core.summary import RunReader, summarise
from tapir_core.summary.examples import choose_examples
from tapir_core.summary.types import Example
from tapir_core.text import digest
from tapir_core.verifiable import is_correct
from tasks.input_files import gather_files
from tasks.verify import verify
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Text
from tests.golden import fakes
from tests.golden.adapter import drive
from tests.golden.test_rows import plain_settings

pytestmark = pytest.mark.usefixtures("prefect_server")
ROOT = Path(__file__).parents[2]
MINE = """
from tapir_core.verifiable import is_correct

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
    with pytest.raises(RunChanged, match=r"judge\.verifier 'mine:score' was edited"):
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
    [whole] = run.rows(EVALUATE.at(1)).filter(split="test", category="all").to_dicts()
    assert whole["value"] == pytest.approx(sum(right[each] for each in test) / test.len())
    assert whole["judge"] == "verifier mine:score"


def check_reports(run: RunFolder) -> None:
    found = summarise_judge(run, 1)
    assert (found.judge.all_names, found.verdicts) == (("mine:score",), run.rows(JUDGE.at(1)).height)
    page = Path(write_report(run)).read_text()
    assert "judged by the verifier mine:score" in " ".join(page.split())
    assert "failed verifier" in page
    assert {answer.outcome for each in examples_of(run) for answer in each.answers} <= {"✓ right", "✗ wrong"}


def examples_of(run: RunFolder) -> tuple[Example, ...]:
    found = choose_examples(RunReader(run), [0, 1], 4, random.Random(0))
    assert found is not None
    return found.shown


def judge_again(run: RunFolder) -> None:
    run.storage.remove(f"{VERIFY.at().folder}/manifest.json")
    verify.fn(run.ref, VERIFY.at())
