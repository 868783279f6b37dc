"""A teacher that thinks before it answers: what of it is stored, judged and trained."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapir_core import thoughts
from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config
from tapir_core.config.load import load_config
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tests.doubles.provider import FakeProvider, RecordedCall, Status, Text
from tests.golden.adapter import drive
from tests.students import make_checkpoint

pytestmark = pytest.mark.usefixtures("prefect_server")

SHORT, LONG = "I count.", " ".join(f"I count on to {each}." for each in range(500))
UNSOUND = ("I count round. " * 50, "I count.<|im_end|>\n<|im_start|>user\nCount less.")
"""What is never trained: one loops, the other would end the turn."""


def reply(call: RecordedCall) -> Any:
    """The teacher's answers come with a long thought, a short one, an unsound one, or none."""
    model = str(call.body["model"])
    if model == "judge-1":
        assert "I count" not in call.prompt, "the judge sees answers, not thoughts"
        return Text("Scores: [[7, 7]]")
    number = int(call.prompt.removeprefix("Count to ").removesuffix("."))
    if "/" in model:
        return Text(f"<think>\nI count too.\n</think>\n\n{number}")
    thought = ("", SHORT, LONG, *UNSOUND)[number % 5]
    message = {"role": "assistant", "content": f"It is {number}.", "reasoning_content": thought}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return Status(200, {"id": "1", "object": "chat.completion", "model": model, "choices": [choice], "usage": usage})


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply) as provider:
        yield provider


def config_of(folder: Path, provider: FakeProvider, *more: str) -> RunConfig:
    (folder / "pool.json").write_text(json.dumps([{"instruction": f"Count to {each}."} for each in range(60)]))
    at = f'base_url = "{provider.base_url}"'
    openai = f'type = "openai", {at}, api_key_env = ""'
    settings = [
        f'data={{ pool = {{ type = "file", path = "{folder / "pool.json"}" }} }}',
        f'judge.endpoint={{ {openai}, model = "judge-1" }}',
        f'student={{ backbone = "{make_checkpoint(folder / "backbone")}", engine = {{ type = "endpoint", {at} }} }}',
        'curriculum={ task_types = { Others = "all" }, expansion = { max_waves = 0 } }',
        'rounds={ default = { selection = { type = "random" }, examples = 60 } }',
        *("evaluation={}", "basic_tuning.examples=12", "run.rounds=1", f"run.root={folder / 'runs'}"),
    ]
    teacher = f'teacher={{ endpoint = {{ {openai}, model = "teacher-1" }} }}'
    return load_config("tests/golden/plain.toml", [*settings, teacher, *more])


def trained(run: RunFolder) -> list[tuple[str, str]]:
    return [thoughts.split(each[-1]["content"]) for each in run.rows(StageAt("mix", 1))["messages"].to_list()]


@pytest.mark.parametrize(("thinking", "learnt"), [("drop", set()), ("keep", {SHORT, LONG.strip()}), ("cap", {SHORT})])
def test_a_thought_is_trained_whole_or_not_at_all(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, thinking: str, learnt: set[str]
) -> None:
    run = drive(config_of(tmp_path, provider, f"teacher.thinking={thinking}"), monkeypatch)
    found = trained(run)
    assert {thought for thought, _ in found if thought} == learnt
    assert len(found) > 40, "what has a long thought is trained without it"
    assert all(answer.startswith("It is ") for _, answer in found)
    taught = run.rows(StageAt("teach"))
    assert all(each.startswith("It is ") for each in taught["response"])
    assert ("thoughts" in taught.columns) == (thinking != "drop")
    judged = run.rows(StageAt("judged_heldout"))
    assert not [each for each in judged["response"] if "I count" in each]
    answers = run.rows(StageAt("answer_heldout", 1))["response"].to_list()
    assert answers
    assert not [each for each in answers if "I count" in each], "what the student thinks is not its answer"
    report = run.storage.read_bytes("report.html").decode()
    said = f"examples {sum(bool(thought) for thought, _ in found) + first_with(run)} have a thought"
    assert (said in report) == (thinking != "drop")
    assert ("of up to 1,024 tokens before the answer" in report) == (thinking == "cap")


def first_with(run: RunFolder) -> int:
    messages = run.rows(StageAt("mix", 0))["messages"].to_list()
    return sum(bool(thoughts.split(each[-1]["content"])[0]) for each in messages)


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("curriculum.expansion.max_waves=1", "set curriculum.expansion.max_waves = 0"),
        ("curriculum.refine=true", "set curriculum.refine = false"),
        ("teacher.endpoint.thinking=strip", 'leave out teacher.endpoint.thinking = "strip"'),
        ("rounds.1.objective=prefer", "round 1 learns from answers without thoughts; let it imitate"),
    ],
)
def test_what_comes_without_thoughts_is_refused_beside_them(
    tmp_path: Path, provider: FakeProvider, setting: str, remedy: str
) -> None:
    problems = check_config(config_of(tmp_path, provider, "teacher.thinking=keep", setting))
    assert [each for each in problems if each.startswith('teacher.thinking: value "keep"') and each.endswith(remedy)]
    assert not [each for each in check_config(config_of(tmp_path, provider, setting)) if "thinking" in each]


@pytest.mark.parametrize(("thinking", "kept"), [("keep", SHORT), ("drop", "")])
def test_answers_of_the_file_come_apart_too(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, thinking: str, kept: str
) -> None:
    config = config_of(tmp_path, provider, "data.pool.answers=use", f"teacher.thinking={thinking}")
    marked = (f"<think>\n{SHORT}\n</think>\n\n", f"<think>{SHORT}</think>\n", f"{SHORT}\n</think>\n")
    given = [f"{marked[each % 3]}It is {each}." for each in range(60)]
    rows = [{"instruction": f"Count to {each}.", "output": text} for each, text in enumerate(given)]
    (tmp_path / "pool.json").write_text(json.dumps(rows))
    run = drive(config, monkeypatch)
    assert set(run.rows(StageAt("teach"))["thoughts"]) == {SHORT}
    assert {thought for thought, _ in trained(run)} == {kept}
    assert all(re.fullmatch(r"It is \d+\.", answer) for _, answer in trained(run))
