"""Several plain answers of the teacher to one instruction: which is kept, judged and trained, and what it costs."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.distill import distill
from flows.whole_run import drive as drive_run
from flows.whole_run import is_finished
from tapir_core.comparison.baseline import match_baselines
from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config
from tapir_core.config.load import load_config
from tapir_core.errors import BudgetReached, TapirError
from tapir_core.estimate.run import estimate_run
from tapir_core.paths import training_file
from tapir_core.reporting.report import model_card
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import MIX, StageAt
from tasks.engines.training import launch
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.flows.built_comparison import BuiltRuns
from tests.golden.adapter import drive
from tests.golden.fakes import replace_trainer, train
from tests.students import make_checkpoint

pytestmark = pytest.mark.usefixtures("prefect_server")

ROWS, SAMPLES = 60, 3
UNPATIENT = ("calls.max_attempts=1", "calls.shard_retries=0", "calls.max_missing_share=0.5")
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
        self.away = False
        """Whether the third answer to each tenth instruction does not come."""

    def __call__(self, call: RecordedCall) -> FakeReply:
        model = str(call.body["model"])
        if model == "judge-1":
            return Text("Scores: [[7, 7]]")
        if isinstance(ids := call.body.get("prompt"), list):
            return scored(ids)
        if not call.prompt.startswith("Count to "):
            return Text("Hello.")  # what an address is asked that failed
        number = int(call.prompt.removeprefix("Count to ").removesuffix("."))
        if "/" in model:
            return Text(f"{number}")
        self.asked[call.prompt] += 1
        if self.away and number % 10 == 0 and self.asked[call.prompt] == SAMPLES:
            return Status(503, {"error": {"message": "busy"}})
        return Text(answers_to(number)[min(self.asked[call.prompt], SAMPLES) - 1])


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
    said = f"the {drawn} that all trainings drew have {conversations} usable ones, and all are trained"
    assert said in report
    card = model_card(run, 1, "")
    assert said in card
    assert f"| round 1 | {run.rows(StageAt('mix', 1)).height} |" in card
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
    asked = len(provider.calls)
    run.storage.remove("round_01/likeliest/manifest.json")
    drive(run.config, monkeypatch)
    assert len(provider.calls) == asked
    assert run.rows(StageAt("likeliest", 1)).equals(scores), "scores come from the store too"
    drawn = run.rows(StageAt("judged_heldout"))
    assert not set(scores["instruction_id"]) & set(drawn["instruction_id"])
    verdicts = [call.prompt for call in provider.calls if call.body["model"] == "judge-1"]
    assert verdicts
    assert sum(LIKELY in each for each in verdicts) < len(verdicts), "the held-out set keeps its own answer"


def test_thoughts_that_are_not_trained_are_not_scored(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokenize(_base: Path, _template: Path | None, talks: list[list[dict[str, Any]]]) -> list[Any]:
        assert not [talk for talk in talks if "I sum" in talk[-1]["content"]]
        return [([1], [2])] * len(talks)

    plain = Teacher.__call__

    def thinking(self: Teacher, call: RecordedCall) -> FakeReply:
        reply = plain(self, call)
        assert isinstance(reply, Text | Status)
        return Text(f"<think>\nI sum.\n</think>\n\n{reply.content}") if call.body["model"] == "teacher-1" else reply

    monkeypatch.setattr(Teacher, "__call__", thinking)
    monkeypatch.setattr(launch, "tokenize", tokenize)
    keeps = ("teacher.endpoint.thinking=keep", "teacher.thinking=drop", "teacher.answers_used=likeliest")
    run = drive(config_of(tmp_path, provider, *keeps), monkeypatch)
    assert "thoughts" in run.rows(StageAt("teach")).columns
    assert run.rows(StageAt("likeliest", 1)).height


def test_what_a_cap_leaves_is_priced_by_its_answers(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = [f"teacher.endpoint.usd_per_million_{each}_tokens=1000" for each in ("prompt", "completion")]
    prices += ["budget.usd=2", "teacher.answering.max_tokens=1000"]
    with pytest.raises(BudgetReached) as reached:
        drive(config_of(tmp_path, provider, *prices), monkeypatch)
    left = re.search(r"(\d+) are left, about ([\d.]+) USD", str(reached.value))
    assert left is not None
    assert float(left[2]) == pytest.approx(0.015 * SAMPLES * int(left[1]), abs=0.01), "15 tokens a call"


def test_a_server_that_scores_nothing_is_named(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.flows.test_several_answers.scored", lambda _: Text("no scores"))
    monkeypatch.setattr(launch, "tokenize", lambda *given: [([1], [2])] * len(given[2]))
    with pytest.raises(TapirError, match="the reply has no token ids with log-probabilities, as vLLM gives them"):
        drive(config_of(tmp_path, provider, "teacher.answers_used=likeliest", *UNPATIENT), monkeypatch)


def test_an_instruction_waits_for_all_its_answers_and_goes_on_by_those_that_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Teacher()
    teacher.away = True
    with FakeProvider(teacher) as provider:
        config = config_of(tmp_path, provider, *UNPATIENT)
        run = drive(config, monkeypatch)
        manifest = run.manifest(StageAt("teach"))
        assert manifest is not None
        assert sum(manifest.accepted_missing.values()) == ROWS / 10
        assert run.rows(StageAt("teach")).height == ROWS
        teacher.away, asked = False, teach_calls(provider)
        run.storage.remove("teacher/manifest.json")
        for part in manifest.parts:
            run.storage.remove(f"teacher/{part.name}")
        drive(config, monkeypatch)
        assert teach_calls(provider) - asked == ROWS / 10


def test_a_stage_is_given_up_by_rows_not_by_their_first_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(call: RecordedCall) -> FakeReply:
        teacher.asked[call.prompt] += 1
        first = teacher.asked[call.prompt] == 1 and call.body["model"] == "teacher-1"
        return Status(400, {"error": {"code": "content_policy_violation"}}) if first else plain(call)

    teacher, plain = Teacher(), Teacher()
    with FakeProvider(refuses) as provider:
        run = drive(config_of(tmp_path, provider, "teacher.answers_per_prompt=2"), monkeypatch)
        assert run.rows(StageAt("teach"))["response"].null_count() == 0


def test_how_many_answers_are_trained_is_part_of_the_mixture(tmp_path: Path, provider: FakeProvider) -> None:
    def key(*more: str) -> object:
        config = config_of(tmp_path, provider, *more)
        return [MIX.settings(config, MIX.at(number)) for number in (0, 1)]

    every = key()
    assert every != key("teacher.answers_used=likeliest")
    assert every != key("rounds.1.objective=prefer", "rounds.1.selection.type=hard_share")
    assert key("teacher.answers_per_prompt=1") == key("teacher.answers_used=likeliest")


class Runs(BuiltRuns):
    """Distils on the fakes, with what a training came to as `count` has it."""

    def distil(self, run: RunFolder, until: str | None) -> None:
        distill(run.ref, until)
        for number in range(run.config.run.rounds + 1):
            if run.holds(StageAt("train", number)) is not None:
                found = self.count(run, number)
                told = {"examples": found.examples, "total_tokens": found.tokens, "trained_tokens": found.loss_tokens}
                told |= {
                    "steps": found.steps,
                    "epochs": found.epochs,
                    "seconds": 1.0,
                    "precision": "fp32",
                    "versions": {},
                }
                run.storage.write_bytes(training_file(StageAt("train", number).folder), json.dumps(told).encode())


def test_the_plain_baseline_is_matched_in_tokens(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_trainer(monkeypatch, train)
    config = config_of(
        *(tmp_path, provider, "evaluation.baseline=sft", "rounds.default.examples=16", "rounds.default.epochs=1.0")
    )
    runs = Runs()
    with runs.counting():
        drive_run(config, runs.distil, say=lambda _: None)
    run = RunFolder(RunRef(config.run.root, config.run.name))
    [beside] = match_baselines(run)
    assert is_finished(beside)
    assert run.rows(StageAt("mix", 1)).height > run.rows(StageAt("mix", 1))["instruction_id"].n_unique()


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
        (["teacher.answers_used=best"], 'value "best": no verifier scores the answers'),
    ],
)
def test_what_cannot_differ_or_be_chosen_is_refused(
    tmp_path: Path, provider: FakeProvider, settings: list[str], remedy: str
) -> None:
    assert [each for each in check_config(config_of(tmp_path, provider, *settings)) if remedy in each]
    assert not [each for each in check_config(config_of(tmp_path, provider)) if each.startswith("teacher.")]
