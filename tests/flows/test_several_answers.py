"""Several plain answers of the teacher to one instruction: which is kept, judged and trained, and what it costs."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config
from tapir_core.config.load import load_config
from tapir_core.estimate.run import estimate_run
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.engines.training import launch
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.golden.adapter import drive
from tests.students import make_checkpoint

pytestmark = pytest.mark.usefixtures("prefect_server")

ROWS, SAMPLES = 60, 3
LIKELY = "The sum is"
"""Begins the answer that the student finds likeliest."""


def answers_to(number: int) -> list[str]:
    """Every third instruction gets three answers that differ, every third one twice the same, every third a refusal."""
    said = [f"It is {number}.", f"{LIKELY} {number}.", f"Surely {number}."]
    return {1: [said[0], said[0], said[1]], 2: ["I'm sorry, but I can't help with that.", *said[:2]]}.get(
        number % 3, said
    )


class Teacher:
    """Gives its answers one after the other; a student beside it that scores what it is shown."""

    def __init__(self) -> None:
        self.asked = Counter[str]()

    def __call__(self, call: RecordedCall) -> FakeReply:
        model = str(call.body["model"])
        if model == "judge-1":
            return Text("Scores: [[7, 7]]")
        if isinstance(ids := call.body.get("prompt"), list):
            return scored(ids)
        number = int(call.prompt.removeprefix("Count to ").removesuffix("."))
        if "/" in model:
            return Text(f"{number}")
        self.asked[call.prompt] += 1
        return Text(answers_to(number)[self.asked[call.prompt] - 1])


def scored(ids: list[int]) -> Status:
    """Of texts whose tokens are characters: the likely one's are likelier."""
    said = -0.5 if LIKELY in "".join(map(chr, ids)) else -1.0
    places = [None, *({str(each): {"logprob": said, "rank": 1}} for each in ids[1:])]
    choice = {"text": "z", "finish_reason": "length", "prompt_logprobs": places}
    return Status(200, {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}})


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(Teacher()) as provider:
        yield provider


def config_of(folder: Path, provider: FakeProvider, *more: str) -> RunConfig:
    pool = [{"instruction": f"Count to {each}.", "reference": str(each)} for each in range(ROWS)]
    (folder / "pool.json").write_text(json.dumps(pool))
    at = f'base_url = "{provider.base_url}"'
    openai = f'type = "openai", {at}, api_key_env = ""'
    settings = [
        f'data={{ pool = {{ type = "file", path = "{folder / "pool.json"}" }} }}',
        f'judge.endpoint={{ {openai}, model = "judge-1" }}',
        f'student={{ backbone = "{make_checkpoint(folder / "backbone")}", engine = {{ type = "endpoint", {at} }} }}',
        'curriculum={ task_types = { Others = "all" }, expansion = { max_waves = 0 } }',
        'rounds={ default = { selection = { type = "random" }, examples = 48 } }',
        *("evaluation={}", "basic_tuning.examples=12", "run.rounds=1", f"run.root={folder / 'runs'}"),
        "calls.concurrency=1",
        f'teacher={{ endpoint = {{ {openai}, model = "teacher-1" }}, answers_per_prompt = {SAMPLES} }}',
        "teacher.answering.temperature=0.7",
    ]
    return load_config("tests/golden/plain.toml", [*settings, *more])


def trained(run: RunFolder, number: int) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for messages in run.rows(StageAt("mix", number))["messages"].to_list():
        asked = int(messages[0]["content"].removeprefix("Count to ").removesuffix("."))
        found.setdefault(asked, []).append(messages[-1]["content"])
    return {asked: sorted(each) for asked, each in found.items()}


def teach_calls(provider: FakeProvider) -> int:
    return sum(call.body["model"] == "teacher-1" for call in provider.calls)


def test_all_usable_answers_are_trained_once_each_and_one_is_judged(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = drive(config_of(tmp_path, provider), monkeypatch)
    assert teach_calls(provider) == ROWS * SAMPLES
    for number, least in ((0, 12), (1, 24)):
        found = trained(run, number)
        assert len(found) >= least
        meant = {asked: sorted({text for text in answers_to(asked) if "sorry" not in text}) for asked in found}
        assert found == meant
    first = {asked: next(text for text in answers_to(asked) if "sorry" not in text) for asked in range(ROWS)}
    taught = run.rows(StageAt("teach")).join(run.rows(StageAt("pool")), on="instruction_id")
    assert {row["instruction"]: row["response"] for row in taught.iter_rows(named=True)} == {
        f"Count to {asked}.": text for asked, text in first.items()
    }
    report = run.storage.read_bytes("report.html").decode()
    several = [trained(run, number) for number in (0, 1)]
    conversations, drawn = sum(len(text) for each in several for text in each.values()), sum(map(len, several))
    assert f"trained are {conversations} to {drawn} drawn instructions" in report
    asked = len(provider.calls)
    run.storage.remove("teacher/manifest.json")
    drive(run.config, monkeypatch)
    assert len(provider.calls) == asked, "every sample is in the store"


def test_the_best_by_the_verifier_is_the_answer(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_marks.py").write_text(
        "def score(instruction, answer, reference):\n    return 1.0 if answer.startswith('The') else 0.6\n"
    )
    verifier = f'judge.verifier={{ function = "my_marks:score", folder = "{tmp_path}", min_score = 0.5 }}'
    run = drive(config_of(tmp_path, provider, "teacher.answers_used=best", verifier), monkeypatch)
    assert {tuple(each) for each in trained(run, 1).values()} == {(f"{LIKELY} {asked}.",) for asked in trained(run, 1)}
    assert "others" not in run.rows(StageAt("teach")).columns


def test_s_0_says_which_is_likeliest_and_later_rounds_learn_that(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokenize(_base: Path, _template: Path | None, talks: list[list[dict[str, Any]]]) -> list[Any]:
        return [([*map(ord, talk[0]["content"])], [*map(ord, talk[-1]["content"])]) for talk in talks]

    monkeypatch.setattr(launch, "tokenize", tokenize)
    run = drive(config_of(tmp_path, provider, "teacher.answers_used=likeliest"), monkeypatch)
    assert {len(each) for each in trained(run, 0).values()} == {1}
    assert {tuple(each) for each in trained(run, 1).values()} == {(f"{LIKELY} {asked}.",) for asked in trained(run, 1)}
    scores = run.rows(StageAt("likeliest", 1))
    assert set(scores["log_prob"]) == {-0.5, -1.0}
    drawn = run.rows(StageAt("judged_heldout"))
    assert not set(scores["instruction_id"]) & set(drawn["instruction_id"])
    verdicts = [call.prompt for call in provider.calls if call.body["model"] == "judge-1"]
    assert verdicts
    assert sum(LIKELY in each for each in verdicts) < len(verdicts), "the held-out set keeps its own answer"


def test_the_estimate_counts_every_answer_and_what_the_store_has_of_them(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, provider)
    before = {each.name: each for each in estimate_run(config, source="c").stages}
    assert before["teach"].needed.calls.likely == before["teach"].paid.calls.likely == ROWS * SAMPLES
    alone = config_of(tmp_path, provider, "teacher.answers_per_prompt=1")
    one = {each.name: each for each in estimate_run(alone, source="c").stages}
    assert before["train"].steps is not None
    assert one["train"].steps is not None
    assert before["train"].steps.likely == 2 * one["train"].steps.likely, "of 12 and 48 rows in batches of 32"
    drive(config, monkeypatch)
    after = {each.name: each for each in estimate_run(config, source="c").stages}
    assert after["teach"].paid.calls.likely == 0


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (["teacher.answering.temperature=0"], "at temperature 0 all answers are the same"),
        (["teacher.answers_used=best"], 'value "best": no verifier says which that is'),
    ],
)
def test_what_cannot_differ_or_be_chosen_is_refused(
    tmp_path: Path, provider: FakeProvider, settings: list[str], remedy: str
) -> None:
    assert [each for each in check_config(config_of(tmp_path, provider, *settings)) if remedy in each]
    assert not [each for each in check_config(config_of(tmp_path, provider)) if each.startswith("teacher.")]
